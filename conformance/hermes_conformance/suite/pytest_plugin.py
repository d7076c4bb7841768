"""`pytest --pyargs hermes_conformance --backend mlx`: the laws as pytest has them.

An item per law and case, declined ones skipped, known failures xfailed by --xfail FILE. The options
exist only where the suite is asked for by name, so that no other project's pytest sees them.
"""

import os
from pathlib import Path

import pytest

OPTIONS = (
    ("--backend", {"default": "torch", "help": "who is judged"}),
    ("--against", {"default": "numpy", "help": "the reference; numpy is the oracle"}),
    ("--level", {"action": "append", "default": [], "help": "L0 .. L5 or L0-L2"}),
    ("--law", {"action": "append", "default": [], "help": "a glob of laws such as 'L1/log*'"}),
    ("--case", {"action": "append", "default": [], "help": "a glob of cases"}),
    ("--device", {"default": None, "help": "of the backend under judgement"}),
    ("--dtype", {"action": "append", "default": [], "help": "only laws that compute in it"}),
    ("--xfail", {"default": None, "help": "known failures, in TOML"}),
    ("--long", {"action": "store_true", "help": "also the bigger models"}),
)


def pytest_load_initial_conftests(early_config, parser, args):
    """Add the options where the suite is among the arguments."""
    if any("hermes_conformance" in str(argument) for argument in args):
        group = parser.getgroup("hermes conformance")
        for name, settings in OPTIONS:
            group.addoption(name, dest=f"hermes_{name.strip('-')}", **settings)
        early_config.pluginmanager.register(Conformance(), "hermes conformance")


class Conformance:
    """The hooks of a run of the suite."""

    def __init__(self):
        self.outcomes, self.waivers, self.complaints = [], (), []

    def pytest_configure(self, config):
        """Read the options; nothing of a framework is loaded yet."""
        os.environ["MLX_ENABLE_TF32"] = "0"
        from hermes.errors import HermesError
        from hermes_conformance.suite.selection import chosen
        from hermes_conformance.suite.xfail import read_waivers

        def option(name):
            return config.getoption(f"hermes_{name}")

        try:
            words = [tuple(option(name)) for name in ("level", "law", "case", "dtype")]
            self.selection = chosen(*words, long=option("long"))
            self.waivers = read_waivers(Path(option("xfail"))) if option("xfail") else ()
        except (HermesError, OSError) as error:
            raise pytest.UsageError(str(error)) from None
        self.names = option("backend"), option("against"), option("device")

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session):
        """Load both backends."""
        from hermes.errors import HermesError
        from hermes_conformance.suite.selection import nothing_to_judge, sides_of

        try:
            self.sides = sides_of(*self.names)
            self.pairs = self._paired()
            if not self.pairs:
                raise HermesError(nothing_to_judge(self.selection, self.sides))
        except HermesError as error:
            raise pytest.UsageError(str(error)) from None

    def pytest_generate_tests(self, metafunc):
        """An item per law and case, case by case, so that what laws share is computed once."""
        if "law_and_case" not in metafunc.fixturenames:
            return
        ids = [f"{law.id}-{case.name}" for _, law, case in self.pairs]
        metafunc.parametrize("law_and_case", self.pairs, ids=ids)

    def _paired(self):
        return [
            (level, law, case)
            for level in self.selection.of_levels()
            for case in filter(self.selection.takes_case, level.cases(self.selection.long))
            for law in level.laws
            if self.selection.takes_law(law) and law.possible(self.sides) and law.applies(case)
        ]

    def pytest_sessionfinish(self, session):
        """An xfail file that is out of date fails the run; so does one that certifies nothing."""
        from hermes_conformance.suite.selection import certified, excused_today
        from hermes_conformance.suite.xfail import strays

        _, self.complaints = excused_today(self.outcomes, self.waivers)
        self.complaints += strays(self.waivers, self.selection)
        if self.outcomes and not certified(self.outcomes) and session.exitstatus == 0:
            self.complaints.append("nothing that asks the backend passed: nothing is certified")
        if self.complaints and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        """Say what is out of date."""
        for line in self.complaints:
            terminalreporter.write_line(f"FAILED {line}", red=True)
