"""torch.compile, and what its failures are: the compiler's, or something that it only passes on."""

import warnings
from collections.abc import Callable
from subprocess import SubprocessError
from typing import Any

import torch

from hermes.errors import is_compiler_interrupted, is_out_of_memory

__all__ = ["can_compile", "compile_blocks", "compile_function", "warn_compiler_failed"]

# Modules whose errors are the compiler's, wherever they surface.
COMPILERS = ("torch._dynamo.", "torch._inductor.", "torch._functorch.", "triton.")

MOST_COMPILATIONS = 64  # of one method: shapes of its runs times learners of the process


def compile_function(function: Any) -> Callable[..., Any]:
    """The function, compiled at its first call for each set of shapes.

    torch counts what it compiled of a method's text, for every shape of a run and every learner of
    a process, and beyond its limit computes without the compiler; 8 of both are soon there.
    """
    _allow_compilations(MOST_COMPILATIONS)
    compiled: Callable[..., Any] = torch.compile(function, dynamic=False)
    return compiled


def _allow_compilations(number: int) -> None:
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, number)


def can_compile(device: str) -> bool:
    """Whether torch.compile works for a device; warns where it does not."""
    try:
        torch.compile(torch.sin)(torch.zeros(2, device=device))
    except Exception as error:
        if not warn_compiler_failed(error, is_first_forward=True):
            raise
        return False
    return True


def compile_blocks(blocks: torch.nn.ModuleList) -> None:
    """Compile each block by itself, in place, at its first call.

    torch keeps what it compiled by the text of a method, so layers share it, and layers that differ
    (in the site of their dropout, say) count towards its limit.
    """
    _allow_compilations(max(MOST_COMPILATIONS, 4 * len(blocks)))
    for block in blocks:
        block.compile(dynamic=False)


def warn_compiler_failed(
    error: BaseException, *, is_first_forward: bool, ends_on_interrupt: bool = True
) -> bool:
    """Whether an error is a failure of the compiler, which is then said.

    is_first_forward: at the first call any error of the system may be: a compiler that is missing
    shows itself in many ways. Memory that ran out never is, and neither is what a signal did to the
    compiler, which raises KeyboardInterrupt. ends_on_interrupt: False where there is something to
    be saved: then it is a failure, of which nothing is said.
    """
    if is_out_of_memory(error):
        return False
    if is_compiler_interrupted(error):
        if ends_on_interrupt:
            raise KeyboardInterrupt from error
        return True
    is_systems = isinstance(error, RuntimeError | OSError | SubprocessError)
    if not (is_first_forward and is_systems) and not _is_compilers(error):
        return False
    reason = str(error).strip().splitlines()[0]
    warnings.warn(f"torch.compile failed, so the run continues without it: {reason}")
    return True


def _is_compilers(error: BaseException | None) -> bool:
    while error is not None:
        if f"{type(error).__module__}.".startswith(COMPILERS):
            return True
        error = error.__cause__ or error.__context__
    return False
