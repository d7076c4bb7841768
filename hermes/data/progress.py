"""How far a preparation of text is."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["PreparationProgress", "Watch", "ignore_progress"]


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


def ignore_progress(progress: PreparationProgress) -> None:
    """Do nothing: the default of `watch`."""
