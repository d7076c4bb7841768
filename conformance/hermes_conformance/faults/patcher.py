"""Change a backend's modules, and those of hermes, until the end of a with block."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np

TABLES = ("EXACT", "FAST", "PLAIN")
FAST_TABLES = ("FAST", "PLAIN")

Function = Callable[..., Any]
Wrapper = Callable[[Any], Any]


def has_known_layout(name: str) -> bool:
    """Whether `hermes_<name>` is laid out as our backends are, so that it can be patched."""
    package = f"hermes_{name}"
    return find_spec(package) is not None and find_spec(f"{package}.runtime") is not None


class Patcher:
    """Patches of the modules of hermes and `hermes_<name>`, undone when the stack closes.

    A wrapper takes the original and gives what stands in for it.
    """

    def __init__(self, name: str, stack: ExitStack):
        self.name, self._stack = name, stack

    def load_module(self, name: str) -> ModuleType:
        """`hermes_torch.ops` for 'ops'."""
        return import_module(f"hermes_{self.name}.{name}")

    def replace(self, target: Any, attribute: str, value: Any) -> None:
        """Set target.attribute."""
        self._stack.enter_context(mock.patch.object(target, attribute, value))

    def wrap(self, target: Any, attribute: str, wrapper: Wrapper) -> None:
        """Wrap target.attribute."""
        self.replace(target, attribute, wrapper(getattr(target, attribute)))

    def wrap_method(self, module: str, cls: str, name: str, wrapper: Wrapper) -> None:
        """Wrap a method of a class of the backend."""
        self.wrap(getattr(self.load_module(module), cls), name, wrapper)

    def wrap_forward(self, cls: str, wrapper: Wrapper) -> None:
        """Wrap the forward pass of a module of model.py."""
        module = getattr(self.load_module("model"), cls)
        # torch calls modules through forward, the others directly.
        self.wrap(module, "forward" if hasattr(module, "forward") else "__call__", wrapper)

    def wrap_function(self, original: Any, wrapper: Wrapper) -> None:
        """Wrap a function in every module of hermes and the backend that has imported it."""
        changed = wrapper(original)
        for name, module in list(sys.modules.items()):
            # Never in the oracle or the suite, which judge the others.
            if name.split(".")[0] in ("hermes", f"hermes_{self.name}"):
                for attribute, value in list(vars(module).items()):
                    if value is original:
                        self.replace(module, attribute, changed)

    def wrap_table(self, entry: str, wrapper: Wrapper, tables: tuple[str, ...] = TABLES) -> None:
        """Wrap an entry of the tables of functions that the model calls."""
        runtime = self.load_module("runtime")
        for name in tables:
            if hasattr(runtime, name):
                table = getattr(runtime, name)
                changed = replace(table, **{entry: wrapper(getattr(table, entry))})
                self.replace(runtime, name, changed)

    def wrap_activation(self, name: str, make: Callable[[dict[str, Function]], Function]) -> None:
        """Replace an activation function in all tables by make(activations)."""
        self.wrap_table("activations", lambda functions: {**functions, name: make(functions)})

    def detach(self, x: Any) -> Any:
        """x without its gradient."""
        if self.name == "torch":
            return x.detach()
        return import_module("mlx.core").stop_gradient(x)

    def gather(self, x: Any, indices: np.ndarray) -> Any:
        """x[indices] along the first axis."""
        if self.name == "torch":
            return x[import_module("torch").from_numpy(indices)]
        return x[import_module("mlx.core").array(indices)]

    def round_to(self, x: Any, precision: str = "bfloat16") -> Any:
        """x rounded to a shorter format and back."""
        if self.name == "torch":
            torch = import_module("torch")
            return x.to(getattr(torch, precision)).to(x.dtype)
        mx = import_module("mlx.core")
        return x.astype(getattr(mx, precision)).astype(x.dtype)
