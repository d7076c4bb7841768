"""How far a preparation of text is."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hermes.stages import report_stage

__all__ = ["PreparationProgress", "Watch", "report_progress"]


@dataclass
class PreparationProgress:
    """How far a preparation is. size: bytes of the sources, 0 if unknown; read: those done."""

    size: int = 0
    read: int = 0
    documents: int = 0
    tokens: int = 0
    stage: str = "tokenizing"
    started: float = field(default_factory=time.monotonic)


Watch = Callable[[PreparationProgress], None]


def report_progress(progress: PreparationProgress) -> None:
    """Report it as a stage of whatever program this is: the default of `watch`."""
    report_stage(f"{progress.stage}, bytes", progress.read, progress.size)
