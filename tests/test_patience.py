"""Tests have the patience of tests/waiting.py, not a few seconds of their own."""

import ast

import pytest

from tests.packages import ROOT
from tests.waiting import PATIENCE

WAITS = {"wait", "join", "result", "communicate", "acquire", "wait_for"}
ASKS = {"get", "post", "request", "stream"}  # of httpx, which waits five seconds where nobody says
# These send signals for ever, to see what takes too long.
SCENARIOS = {"kill_ranks.py", "kill_runs.py", "signal_commands.py"}


def list_short_waits(text):
    """Lines with a wait for another thread or process that a busy machine may need longer for."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name, of = node.func.attr, ast.unparse(node.func.value)
        given = [one.value for one in node.keywords if one.arg == "timeout"]
        if of == "httpx" and name in ASKS and not given:
            found.append(node.lineno)
        given += node.args[:1] if name in WAITS else []
        seconds = [one.value for one in given if isinstance(one, ast.Constant)]
        if any(type(one) in (int, float) and 1 <= one < PATIENCE for one in seconds):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize(
    ("line", "is_short"),
    [
        ("thread.join(10)", True),
        ("process.communicate(timeout=60)", True),
        ("subprocess.run(words, timeout=5.0)", True),
        ("httpx.get(url)", True),
        ("httpx.get(url, timeout=PATIENCE)", False),
        ("thread.join(PATIENCE)", False),
        ("subprocess.run(words, timeout=900)", False),
        ("assert not copied.wait(0.2)", False),  # what must not come
        ("', '.join(words)", False),
    ],
)
def test_short_waits_are_found(line, is_short):
    assert bool(list_short_waits(line)) is is_short


def test_no_test_is_in_a_hurry():
    paths = [path for path in (ROOT / "tests").rglob("*.py") if path.name not in SCENARIOS]
    assert len(paths) > 300
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in paths
        for line in list_short_waits(path.read_text(encoding="utf-8"))
    }
    assert not found
