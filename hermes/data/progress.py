"""How far a preparation of text is."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hermes.formatting import format_count, format_with_unit
from hermes.stages import report_stage

__all__ = ["PreparationProgress", "Watch", "report_progress"]

SOON = 0.5  # seconds, before which nobody can say how fast it is


@dataclass
class PreparationProgress:
    """How far a preparation is.

    size: bytes of the sources, 0 if unknown; read: those whose tokens are made. skipped: those of
    `read` whose tokens an earlier attempt has made.
    """

    size: int = 0
    read: int = 0
    documents: int = 0
    tokens: int = 0
    stage: str = "tokenizing"
    started: float = field(default_factory=time.monotonic)
    skipped: int = 0

    def describe(self, now: float) -> list[str]:
        """What is told of it besides its share: the pace, tokens and documents so far."""
        seconds = now - self.started
        made = self.read - self.skipped
        pace = f"{made / 1e6 / seconds:.2f} MB/s" if made > 0 and seconds >= SOON else ""
        read = f"{format_with_unit(self.read, 'B')} read" if not self.size and self.read else ""
        tokens = f"{format_with_unit(self.tokens, '').strip()} tokens" if self.tokens else ""
        documents = format_count(self.documents, "documents") if self.documents else ""
        return [one for one in (pace, read, tokens, documents) if one]


Watch = Callable[[PreparationProgress], None]


def report_progress(progress: PreparationProgress) -> None:
    """Report it as a stage of whatever program this is: the default of `watch`."""
    done, total = (progress.read, progress.size) if progress.size else (0, 0)
    report_stage(progress.stage, done, total, *progress.describe(time.monotonic()))
