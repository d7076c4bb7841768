"""TensorBoard: event files in OUTPUT/tensorboard, without PyTorch's writer."""

import time
from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from hermes.tracking.tracker import TrackedRun

__all__ = ["TensorBoardTracker"]

FOLDER = "tensorboard"


class TensorBoardTracker:
    """Writes event files that `tensorboard --logdir OUTPUT` reads."""

    rewinds = True

    def __init__(self, run: TrackedRun):
        self._writer: Any = EventFileWriter(str(run.folder / FOLDER))
        # A session's start tells TensorBoard to drop what earlier files say of later steps.
        start = SessionLog(status=SessionLog.START)
        self._add(run.step + 1, session_log=start)
        lines = [f"    {name}: {value}" for name, value in run.settings.items()]
        self.log_text(run.step, "settings", "\n".join(lines))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a step."""
        summary = Summary(
            value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        )
        self._add(step, summary=summary)

    def log_text(self, step: int, name: str, text: str) -> None:
        """Write a text, shown as Markdown."""
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()])
        value = Summary.Value(tag=name, metadata=metadata, tensor=tensor)
        self._add(step, summary=Summary(value=[value]))

    def finish(self, finished: bool) -> None:
        """Close the file."""
        self._writer.close()

    def _add(self, step: int, **content: Any) -> None:
        self._writer.add_event(Event(wall_time=time.time(), step=step, **content))
