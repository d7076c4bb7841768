"""A part of the self-test: the faults of some names, to see one of them again."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from unittest import mock

from hermes.errors import HermesError
from hermes_conformance.sabotage import selftest
from hermes_conformance.sabotage.suite import SUITE_FAULTS


@contextmanager
def narrowed(globs: tuple[str, ...]) -> Iterator[None]:
    """Inside, the self-test plants faults of these names only; without a glob, all.

    The suite's own controls are looked at where one of its faults is named. Raises HermesError for
    a glob that fits no fault.
    """
    names = [fault.name for fault in (*selftest.FAULTS, *SUITE_FAULTS)]
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            raise HermesError(
                f"no fault is called {glob!r}; hermes conformance self-test prints their names"
            )
    if not globs:
        yield
        return
    with ExitStack() as stack:
        planted = tuple(fault for fault in selftest.FAULTS if _named(fault.name, globs))
        of_suite = tuple(fault for fault in SUITE_FAULTS if _named(fault.name, globs))
        stack.enter_context(mock.patch.object(selftest, "FAULTS", planted))
        stack.enter_context(mock.patch.object(selftest, "SUITE_FAULTS", of_suite))
        if not of_suite:
            stack.enter_context(mock.patch.object(selftest, "suite_rows", return_value=()))
        yield


def _named(name: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)
