"""mx.compile, and what becomes of a run where it fails."""

import warnings
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from hermes.errors import is_compiler_interrupted, is_out_of_memory
from hermes_mlx.runtime import Runtime

__all__ = ["compile_function", "uses_compile"]


def uses_compile(runtime: Runtime) -> bool:
    """Whether a model's passes are compiled: on a GPU, unless the options say otherwise."""
    wanted = runtime.options.compile
    return runtime.is_on_gpu if wanted is None else wanted


def compile_function(function: Callable) -> Callable:
    """Compile a function; where the compiler is missing or fails, warn and run without it."""
    chosen = mx.compile(function)
    tried = False

    def run(*arguments: Any) -> Any:
        nonlocal chosen, tried
        if tried:
            return chosen(*arguments)
        tried = True
        # MLX builds kernels when the first result is evaluated, so that is where it may fail.
        try:
            result = chosen(*arguments)
            mx.eval(result)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            if is_compiler_interrupted(error):
                raise KeyboardInterrupt from error
            reason = str(error).strip().splitlines()[0]
            warnings.warn(f"mx.compile failed, so the run continues without it: {reason}")
            chosen = function
        else:
            return result
        return chosen(*arguments)  # out of the block, whose error holds what was computed

    return run
