"""The levels: what they are called, their laws and their cases."""

from collections.abc import Callable
from dataclasses import dataclass

from hermes_conformance.cases.case import Case
from hermes_conformance.laws import (
    compiled,
    core,
    exact,
    interchange,
    kernels,
    semantics,
    short,
    training,
)
from hermes_conformance.laws.cases import semantics as semantics_cases
from hermes_conformance.measure.law import Law


@dataclass(frozen=True)
class Level:
    """A level of the certificate. canary: a float64 that is not one refuses the level."""

    name: str
    title: str
    laws: tuple[Law, ...]
    cases: Callable[[bool], tuple[Case, ...]]
    canary: bool = False


LEVELS = (
    Level("L0", "exact", (*core.LAWS, *exact.LAWS), exact.cases),
    Level("L1", "float64 semantics", semantics.LAWS, semantics_cases, canary=True),
    Level("L2", "float32 kernels", kernels.LAWS, kernels.cases),
    Level("L3", "kernels of shorter formats", short.LAWS, short.cases),
    Level("L4", "training", (*training.LAWS, *compiled.LAWS), training.cases, canary=True),
    Level("L5", "interchange", interchange.LAWS, interchange.cases),
)
