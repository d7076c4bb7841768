"""The levels of the suite, with their laws and cases."""

from collections.abc import Callable
from dataclasses import dataclass

from hermes_conformance.cases import trained_specs
from hermes_conformance.cases.case import Case
from hermes_conformance.laws import (
    as_trained,
    checkpointing,
    coded_moments,
    compiled,
    compiled_evaluation,
    core_library,
    device_choices,
    device_rows,
    exact,
    gradient_noise,
    interchange,
    invariant_rows,
    kernel_cases,
    kernels,
    late_numbers,
    loss_limit,
    loss_scaling,
    rows,
    semantics,
    short_formats,
    training,
    training_cases,
)
from hermes_conformance.measure.law import Law


@dataclass(frozen=True)
class Level:
    """A level of the certificate. make_cases(long): its cases. canary: it needs a true float64.

    whole_on_gpu: devices other than the CPU are judged on the cases of long runs always.
    """

    name: str
    title: str
    laws: tuple[Law, ...]
    make_cases: Callable[[bool], tuple[Case, ...]]
    canary: bool = False
    whole_on_gpu: bool = False


LEVELS = (
    Level("L0", "exact", (*core_library.LAWS, *exact.LAWS), exact.make_cases),
    Level(
        "L1",
        "float64 semantics",
        (*semantics.LAWS, *rows.LAWS_64, *gradient_noise.LAWS_64),
        semantics.make_cases,
        canary=True,
    ),
    Level(
        "L2",
        "float32 kernels",
        (
            *kernels.LAWS,
            *rows.LAWS_32,
            *invariant_rows.LAWS_32,
            *device_rows.LAWS,
            *device_choices.LAWS,
            *gradient_noise.LAWS_32,
        ),
        kernel_cases.make_cases,
    ),
    Level(
        "L3",
        "kernels of shorter formats",
        (
            *short_formats.LAWS,
            *rows.LAWS_16,
            *invariant_rows.LAWS_16,
            *loss_scaling.LAWS_OF_GRADIENTS,
            *gradient_noise.LAWS_F16,
        ),
        short_formats.make_cases,
    ),
    Level(
        "L4",
        "training",
        (
            *training.LAWS,
            *checkpointing.LAWS,
            *compiled.LAWS,
            *compiled_evaluation.LAWS,
            *loss_scaling.LAWS_OF_RUNS,
            *loss_limit.LAWS,
            *late_numbers.LAWS,
            *coded_moments.LAWS,
        ),
        lambda long: (
            *training_cases.make_cases(long),
            *loss_scaling.make_cases(),
            *coded_moments.make_cases(),
        ),
        canary=True,
    ),
    Level(
        "L5",
        "interchange",
        (*interchange.LAWS, *loss_scaling.LAWS_OF_MOVES),
        interchange.make_cases,
    ),
    Level(
        "L6",
        "as trained",
        as_trained.LAWS,
        trained_specs.make_cases,
        canary=True,
        whole_on_gpu=True,
    ),
)


def list_laws() -> tuple[Law, ...]:
    """The laws of all levels, in order."""
    return tuple(law for level in LEVELS for law in level.laws)
