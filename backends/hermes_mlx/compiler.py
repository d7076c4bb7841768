"""mx.compile, and what becomes of a run where it fails."""

import shutil
import warnings
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from hermes.errors import is_compiler_interrupted, is_out_of_memory
from hermes_mlx.kernel_folder import build_kernels
from hermes_mlx.runtime import Runtime

__all__ = ["compile_function", "uses_compile"]

COMPILER = "g++"  # the name by which MLX calls it on a CPU
# MLX's message for a kernel's file that is damaged or was built on another system.
NOT_LOADED = "Could not load C++ shared library"


def uses_compile(runtime: Runtime) -> bool:
    """Whether a model's passes are compiled: on a GPU, unless the options say otherwise."""
    wanted = runtime.options.compile
    return runtime.is_on_gpu if wanted is None else wanted


def compile_function(function: Callable, *, ends_on_interrupt: bool = True) -> Callable:
    """Compile a function; where the compiler is missing or fails, warn and run without it.

    A compiler that was sent a signal raises KeyboardInterrupt at the first call, unless
    ends_on_interrupt is False. Later there is something to be saved, so what was asked for is
    computed without it.
    """
    chosen = mx.compile(function)
    seen: set[Any] = set()  # shapes, each of which MLX compiles anew

    def run(*arguments: Any) -> Any:
        nonlocal chosen
        shapes = _describe_shapes(arguments)
        if chosen is function or shapes in seen:
            return chosen(*arguments)
        if not seen:
            _warn_without_compiler()
        # MLX builds kernels when the first result is evaluated, so that is where it may fail.
        try:
            result = _evaluate(chosen, arguments)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            if is_compiler_interrupted(error):
                if ends_on_interrupt and not seen:
                    raise KeyboardInterrupt from error
            else:
                reason = str(error).strip().splitlines()[0]
                warnings.warn(f"mx.compile failed, so the run continues without it: {reason}")
            chosen = function
        else:
            seen.add(shapes)
            return result
        return chosen(*arguments)  # out of the block, whose error holds what was computed

    return run


def _warn_without_compiler() -> None:
    """Warn where MLX cannot compile: without a compiler it silently runs each operation."""
    if mx.default_device() == mx.Device(mx.cpu) and shutil.which(COMPILER) is None:
        warnings.warn(f"mx.compile needs {COMPILER} on a CPU, so the run continues without it")


def _evaluate(function: Callable, arguments: tuple[Any, ...]) -> Any:
    """Call a function and evaluate its result; kept kernels that do not load are built anew."""

    def compute() -> Any:
        result = function(*arguments)
        mx.eval(result)
        return result

    try:
        with build_kernels():
            return compute()
    except RuntimeError as error:
        if NOT_LOADED not in str(error) or is_compiler_interrupted(error):
            raise
    with build_kernels(anew=True):
        return compute()


def _describe_shapes(value: Any) -> Any:
    """What MLX compiles a function anew for: shapes, and numbers that are no arrays.

    Of dictionaries, which are weights and moments, nothing: theirs stay.
    """
    match value:
        case mx.array():
            return value.shape, value.dtype
        case tuple() | list():
            return tuple(_describe_shapes(one) for one in value)
        case dict():
            return None
    return value
