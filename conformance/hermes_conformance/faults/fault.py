"""What a fault is, and how one reaches into a backend until the end of a with block."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np

TABLES = ("EXACT", "FAST", "PLAIN")

Make = Callable[[Any], Any]


def laid_out(name: str) -> bool:
    """Whether `hermes_<name>` is a backend with the files of ours, so that one can reach inside."""
    package = f"hermes_{name}"
    return find_spec(package) is not None and find_spec(f"{package}.runtime") is not None


class Inside:
    """The modules of `hermes_<name>`, changed through here and restored when the stack closes."""

    def __init__(self, name: str, stack: ExitStack):
        self.name, self._stack = name, stack

    def module(self, name: str) -> ModuleType:
        """`hermes_torch.ops` for 'ops'."""
        return import_module(f"hermes_{self.name}.{name}")

    def replace(self, target: Any, attribute: str, value: Any) -> None:
        """Set target.attribute until the end."""
        self._stack.enter_context(mock.patch.object(target, attribute, value))

    def wrap(self, target: Any, attribute: str, make: Make) -> None:
        """Put make(what is there) in the place of target.attribute."""
        self.replace(target, attribute, make(getattr(target, attribute)))

    def method(self, module: str, cls: str, name: str, make: Make) -> None:
        """Wrap a method of a class of the backend."""
        self.wrap(getattr(self.module(module), cls), name, make)

    def forward(self, cls: str, make: Make) -> None:
        """Wrap the forward pass of a module of model.py."""
        found = getattr(self.module("model"), cls)
        self.wrap(found, "forward" if hasattr(found, "forward") else "__call__", make)

    def function(self, original: Any, make: Make) -> None:
        """Put make(original) in its place in every module of hermes that holds it."""
        changed = make(original)
        for name, module in list(sys.modules.items()):
            # Never in the oracle or the suite: they must go on telling the truth.
            if name.split(".")[0] in ("hermes", f"hermes_{self.name}"):
                for attribute, value in list(vars(module).items()):
                    if value is original:
                        self.replace(module, attribute, changed)

    def table(self, entry: str, make: Make, only: tuple[str, ...] = TABLES) -> None:
        """Wrap one entry of the tables of elementary functions."""
        runtime = self.module("runtime")
        for name in only:
            if hasattr(runtime, name):
                table = getattr(runtime, name)
                changed = replace(table, **{entry: make(getattr(table, entry))})
                self.replace(runtime, name, changed)

    def activation(self, name: str, make: Make) -> None:
        """Put make(activations) in the place of one activation of every table."""
        self.table("activations", lambda found: {**found, name: make(found)})

    def detached(self, x: Any) -> Any:
        """x without its gradient."""
        if self.name == "torch":
            return x.detach()
        return import_module("mlx.core").stop_gradient(x)

    def taken(self, x: Any, places: np.ndarray) -> Any:
        """x[places] along the first axis."""
        if self.name == "torch":
            return x[import_module("torch").from_numpy(places)]
        return x[import_module("mlx.core").array(places)]

    def shorter(self, x: Any, precision: str = "bfloat16") -> Any:
        """x rounded to a shorter format and back."""
        if self.name == "torch":
            torch = import_module("torch")
            return x.to(getattr(torch, precision)).to(x.dtype)
        mx = import_module("mlx.core")
        return x.astype(getattr(mx, precision)).astype(x.dtype)


@dataclass(frozen=True)
class Fault:
    """name; part: of what; law: the id that must catch it; case: on which case; plant: does it.

    only: the backend it can be planted in, where it is a matter of one. under: what is planted with
    the fault and without it, for a law that this machine has no device for.
    """

    name: str
    part: str
    law: str
    case: str
    plant: Callable[[Inside], None]
    only: str | None = None
    under: Callable[[Inside], None] | None = None
