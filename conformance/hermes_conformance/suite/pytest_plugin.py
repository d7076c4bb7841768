"""`pytest --pyargs hermes_conformance --backend mlx`: the laws as pytest's items.

There is an item for each law and case; declined ones are skipped, and known failures xfailed by
--xfail FILE. The options exist only where the suite is named among the arguments, so that the
pytest runs of other projects do not see them.
"""

import os
from pathlib import Path
from typing import Any

import pytest

OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--backend", {"default": "torch", "help": "the backend under test"}),
    ("--against", {"default": "numpy", "help": "the reference; numpy is the oracle"}),
    ("--level", {"action": "append", "default": [], "help": "L0 .. L6 or L0-L2"}),
    ("--law", {"action": "append", "default": [], "help": "a glob of laws such as 'L1/log*'"}),
    ("--case", {"action": "append", "default": [], "help": "a glob of cases"}),
    ("--device", {"default": None, "help": "of the backend under test"}),
    ("--dtype", {"action": "append", "default": [], "help": "only laws that compute in it"}),
    ("--xfail", {"default": None, "help": "known failures, in TOML"}),
    ("--long", {"action": "store_true", "help": "also the bigger models"}),
)


def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> None:
    """Add the options where the suite is among the arguments."""
    if any("hermes_conformance" in str(argument) for argument in args):
        group = parser.getgroup("hermes conformance")
        for name, settings in OPTIONS:
            group.addoption(name, dest=f"hermes_{name.strip('-')}", **settings)
        early_config.pluginmanager.register(ConformancePlugin(), "hermes conformance")


# The suite's modules are imported in the hooks: without the suite, pytest loads only this file.
class ConformancePlugin:
    """The hooks of a run of the suite."""

    def __init__(self) -> None:
        self.outcomes: list[Any] = []
        self.expected_failures: tuple[Any, ...] = ()
        self.complaints: list[str] = []

    def pytest_configure(self, config: pytest.Config) -> None:
        """Read the options; no framework is loaded yet."""
        os.environ["MLX_ENABLE_TF32"] = "0"
        from hermes.errors import HermesError, describe_error
        from hermes_conformance.suite.selection import make_selection
        from hermes_conformance.suite.xfail import read_expected_failures

        def option(name: str) -> Any:
            return config.getoption(f"hermes_{name}")

        try:
            levels, laws, cases, dtypes = (
                tuple(option(name)) for name in ("level", "law", "case", "dtype")
            )
            self.selection = make_selection(levels, laws, cases, dtypes, option("long"))
            if option("xfail"):
                self.expected_failures = read_expected_failures(Path(option("xfail")))
        except (HermesError, OSError) as error:
            raise pytest.UsageError(describe_error(error)) from None
        self.names = option("backend"), option("against"), option("device")

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> None:
        """Load both backends and list the items."""
        from hermes.errors import HermesError
        from hermes_conformance.suite.selection import explain_empty_run, load_backends

        try:
            self.backends = load_backends(*self.names)
            self.items = self._list_items()
            if not self.items:
                raise HermesError(explain_empty_run(self.selection, self.backends))
        except HermesError as error:
            raise pytest.UsageError(str(error)) from None

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make the items, case by case, so that what laws share is computed once."""
        if "law_and_case" not in metafunc.fixturenames:
            return
        ids = [f"{law.id}-{case.name}" for _, law, case in self.items]
        metafunc.parametrize("law_and_case", self.items, ids=ids)

    def _list_items(self) -> list[Any]:
        """(level, law, case) of each item."""
        return [
            (level, law, case)
            for level in self.selection.list_levels()
            for case in filter(self.selection.has_case, level.make_cases(self.selection.long))
            for law in level.laws
            if self.selection.has_law(law) and law.can_run(self.backends) and law.applies_to(case)
        ]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run whose xfail file is out of date, and one that certifies nothing."""
        from hermes_conformance.suite.runner import is_certified
        from hermes_conformance.suite.xfail import excuse, find_unmatched

        _, self.complaints = excuse(self.outcomes, self.expected_failures)
        self.complaints += find_unmatched(self.expected_failures, self.selection)
        device = self.backends.subject.device_name
        certified = is_certified(self.outcomes, device)
        if self.outcomes and not certified and session.exitstatus == 0:
            self.complaints.append(
                f"no law that needs the backend passed on {device}: nothing is certified"
            )
        if self.complaints and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the complaints."""
        for line in self.complaints:
            terminalreporter.write_line(f"FAILED {line}", red=True)
