"""What a fault is. Each names the law that must catch it."""

from collections.abc import Callable
from dataclasses import dataclass

from hermes_conformance.faults.patcher import Patcher

Plant = Callable[[Patcher], None]


@dataclass(frozen=True)
class Fault:
    """part: the part of hermes it is in. law: the id of the law that must catch it on the case.

    only: the backend it can be planted in, None for any. under: what is planted both with the fault
    and without it, such as the emulation of a format that this machine does not have.
    """

    name: str
    part: str
    law: str
    case: str
    plant: Plant
    only: str | None = None
    under: Plant | None = None
