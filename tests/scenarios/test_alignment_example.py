"""The worked example: its commands are those of hermes, its page says what was measured."""

import json
import shlex
import sys
from pathlib import Path

import click
import pytest

from hermes_cli.main import hermes

FOLDER = Path(__file__).parents[2] / "examples/alignment"
BACKENDS = ["torch", "mlx"]


@pytest.fixture
def align(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    import align

    return align


@pytest.fixture
def results():
    return json.loads((FOLDER / "results.json").read_text())


def test_every_command_is_one_that_hermes_has(align):
    for command in align.STEPS.values():
        name, *told = shlex.split(command)
        found = hermes.get_command(click.Context(hermes), name)
        with found.make_context(name, told) as context:
            assert context.params["data"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_preferences_moved_the_rule_and_kept_the_answers(results, backend):
    found = results[backend]
    before, after = found["after sft"], found["after dpo"]
    assert found["held-out accuracy"] > 0.95
    assert found["margin of the first update"] == 0
    assert after["short"] > before["short"] + 0.3
    assert after["well formed"] > before["well formed"] - 0.03


def test_the_page_says_what_was_measured(results):
    page = (FOLDER / "README.md").read_text()
    for rate in ("short", "well formed", "right"):
        rates = (
            [100 * results[backend][when][rate] for when in ("after sft", "after dpo")]
            for backend in BACKENDS
        )
        assert " | ".join("{:.1f} % → {:.1f} %".format(*pair) for pair in rates) in page


def test_the_worlds_held_out_questions_are_in_no_conversation(align, tmp_path):
    align.write(tmp_path)
    lines = {
        name: [json.loads(line)["prompt"] for line in (tmp_path / name).read_text().splitlines()]
        for name in ("chat.jsonl", "prefs.jsonl", "held-out.jsonl")
    }
    assert len(set(lines["held-out.jsonl"])) == 40
    assert not set(lines["held-out.jsonl"]) & {*lines["chat.jsonl"], *lines["prefs.jsonl"]}
