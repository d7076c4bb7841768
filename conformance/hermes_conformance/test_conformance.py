"""Collected by `pytest --pyargs hermes_conformance`; suite/pytest_plugin.py makes its items."""

from collections.abc import Callable

import pytest

from hermes_conformance.cases.case import Case
from hermes_conformance.laws import Level
from hermes_conformance.measure.law import Law
from hermes_conformance.suite.precision import require_float32
from hermes_conformance.suite.pytest_plugin import ConformancePlugin
from hermes_conformance.suite.report import format_failure, make_run_command
from hermes_conformance.suite.runner import DECLINED, EXPECTED, FAILED, find_refusal, judge_case
from hermes_conformance.suite.xfail import excuse

Refusal = Callable[[Level], str | None]


@pytest.fixture(scope="session")
def plugin(request: pytest.FixtureRequest) -> ConformancePlugin:
    """The run's plugin: its backends, its expected failures and the outcomes so far."""
    plugin = request.config.pluginmanager.get_plugin("hermes conformance")
    assert isinstance(plugin, ConformancePlugin), "the suite is among pytest's arguments"
    require_float32(plugin.backends)
    return plugin


@pytest.fixture(scope="session")
def refusal(plugin: ConformancePlugin) -> Refusal:
    """Why a level that needs a true float64 is refused; found out once."""
    answers: list[str | None] = []

    def find(level: Level) -> str | None:
        if not level.canary:
            return None
        if not answers:
            answers.append(find_refusal(plugin.backends))
        return answers[0]

    return find


def test_law(
    law_and_case: tuple[Level, Law, Case], plugin: ConformancePlugin, refusal: Refusal
) -> None:
    """One law on one case."""
    level, law, case = law_and_case
    if (why := refusal(level)) is not None:
        pytest.fail(why, pytrace=False)
    outcome = judge_case(law, case, plugin.backends)
    plugin.outcomes.append(outcome)
    (judged,), _ = excuse([outcome], plugin.expected_failures)
    if judged.status == DECLINED:
        pytest.skip(outcome.message)
    if judged.status == EXPECTED:
        pytest.xfail(judged.message)
    if judged.status == FAILED:
        rerun = make_run_command(plugin.names, plugin.selection.dtypes, plugin.selection.long)
        pytest.fail("\n".join(format_failure(outcome, rerun)), pytrace=False)
