"""What a fault is. Each names the law that must catch it."""

from collections.abc import Callable
from dataclasses import dataclass

from hermes_conformance.faults.patcher import Function, Patcher

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


def change_step(change: Function) -> Plant:
    """A plant that takes a learner's step by change(original, self, batch, lr)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_method(
            "learner",
            "Learner",
            "step",
            lambda original: lambda self, batch, lr: change(original, self, batch, lr),
        )

    return plant
