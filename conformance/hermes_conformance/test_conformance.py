"""Collected by `pytest --pyargs hermes_conformance`; the plugin beside it brings the parameters."""

import pytest

from hermes_conformance.certificate.issue import require_float32
from hermes_conformance.suite.report import failure_lines
from hermes_conformance.suite.runner import DECLINED, EXPECTED, FAILED, refused, run
from hermes_conformance.suite.selection import excused_today, started_with


@pytest.fixture(scope="session")
def plugin(request):
    """The run's plugin: the sides, the known failures and the outcomes so far."""
    found = request.config.pluginmanager.get_plugin("hermes conformance")
    require_float32(found.sides)
    return found


@pytest.fixture(scope="session")
def refusal_of(plugin):
    """Why a level that needs true float64 refuses, asked once."""
    known = {}

    def why(level):
        if level.canary and "float64" not in known:
            known["float64"] = refused(plugin.sides)
        return known.get("float64") if level.canary else None

    return why


def test_law(law_and_case, plugin, refusal_of):
    """One law on one case."""
    level, law, case = law_and_case
    if (why := refusal_of(level)) is not None:
        pytest.fail(why, pytrace=False)
    outcome = run(law, case, plugin.sides)
    plugin.outcomes.append(outcome)
    (judged,), _ = excused_today([outcome], plugin.waivers)
    if judged.status == DECLINED:
        pytest.skip(outcome.message)
    if judged.status == EXPECTED:
        pytest.xfail(judged.message)
    if judged.status == FAILED:
        rerun = started_with(plugin.names, plugin.selection.dtypes, plugin.selection.long)
        pytest.fail("\n".join(failure_lines(outcome, rerun)), pytrace=False)
