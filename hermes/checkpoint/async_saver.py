"""Background saves: training waits until its state is copied, not until it is on disk."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType

import numpy as np

from hermes.checkpoint.compatibility import require_vocabulary
from hermes.checkpoint.layout import TOKENIZER, Companions, name_step_folder
from hermes.checkpoint.progress import Progress
from hermes.checkpoint.retention import RetentionPolicy, prune, sweep
from hermes.checkpoint.writer import save
from hermes.interface import LazyTensors, Tensors, TrainState
from hermes.spec import ModelSpec
from hermes.storage.durable import Disk

__all__ = ["Lead", "Saver", "copy_state"]

Lead = Callable[[TrainState], AbstractContextManager[TrainState]]


def _copy_tensors(tensors: Tensors) -> Tensors:
    if isinstance(tensors, LazyTensors):
        own = [name for name in tensors if name not in tensors.steady]
        if tensors.stage is not None:
            waits = {name: tensors.stage(name) for name in own}
            return LazyTensors(
                tensors, lambda name: waits[name]() if name in waits else tensors[name], tensors
            )
        # Each access makes a new array, so there is no need to copy it again.
        copies = {name: tensors[name] for name in own}
        if not tensors.steady:
            return copies
        return LazyTensors(
            tensors, lambda name: copies[name] if name in copies else tensors[name], tensors.steady
        )
    # Other mappings may hold the learner's own buffers, which its next step overwrites.
    return {name: np.array(tensor) for name, tensor in tensors.items()}


def copy_state(state: TrainState) -> TrainState:
    """Copy the state into host arrays that no later optimizer step can change.

    Those that nothing changes are left where they are, to be read one at a time. A learner that
    stages copies has only begun them when this returns: reading one waits for it.
    """
    slots = {slot: _copy_tensors(held) for slot, held in state.slots.items()}
    return TrainState.from_slots(_copy_tensors(state.params), slots, state.step, state.loss_scale)


class Saver:
    """Writes the checkpoints of one run, one at a time, in a background thread.

    `save` waits for the previous save, copies the state in the calling thread, or has the device
    begin to, and returns, so at most one copy exists. (A framework's own arrays are not for other
    threads: what they read are host arrays, or waits for a device's copies into those.) An error in
    the thread is raised by the next call of any method. The caller holds the run's lock. on_delete
    is called from the thread with each checkpoint that the retention policy deletes. Raises
    CheckpointError where the tokenizer does not fit the model.
    """

    def __init__(
        self,
        run: Path,
        *,
        spec: ModelSpec,
        companions: Companions | None = None,
        keep: RetentionPolicy | None = None,
        disk: Disk | None = None,
        on_delete: Callable[[Path], None] | None = None,
    ):
        self._run, self._spec, self._companions = run, spec, companions
        self._keep, self._disk, self._deleted = keep or RetentionPolicy(), disk or Disk(), on_delete
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        if companions and companions.tokenizer_json is not None:
            require_vocabulary(companions.tokenizer_json.encode("utf-8"), spec, TOKENIZER)
        self._exists = run.exists()
        sweep(run, disk=self._disk)

    def save(self, state: TrainState, progress: Progress, *, lead: Lead | None = None) -> Path:
        """Start a save; the folder is whole once `wait` or the next `save` has returned.

        lead: of a state whose tensors several processes gather, what leads them while it is
        written, tensor by tensor. Raises the error of the previous save, if it failed.
        """
        self.wait()
        self._pending = self._pool.submit(self._write, copy_state(state), progress, lead)
        return self._run / name_step_folder(progress.step)

    def _write(self, state: TrainState, progress: Progress, lead: Lead | None) -> None:
        with nullcontext(state) if lead is None else lead(state) as read:
            path = save(
                self._run,
                read,
                spec=self._spec,
                progress=progress,
                companions=self._companions,
                # One writes weights, one the moments; what is gathered comes one by one.
                workers=2 if lead is None else 1,
                disk=self._disk,
                make_run=not self._exists,
            )
        for gone in prune(self._run, self._keep, path, disk=self._disk):
            if self._deleted:
                self._deleted(gone)

    def check(self) -> bool:
        """Tell without waiting whether all saves are on disk. Raises the error of a failed one."""
        if self._pending and self._pending.done():
            self.wait()
        return self._pending is None

    def wait(self) -> None:
        """Wait until the pending save is whole on disk; raise its error if it failed."""
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def close(self) -> None:
        """Wait for the pending save and end the thread; raise the error of a failed save."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            # An error of the save would hide the one that ends the block.
            self._pool.shutdown()
