"""A command at a run's end: it runs however the run ends, and is told how."""

from contextlib import nullcontext

import pytest

from hermes.errors import HermesError, Interrupted
from hermes.training.finish_command import FinishCommand

TELL = 'printf "%s|%s|%s" "$HERMES_STATUS" "$HERMES_RUN" "$HERMES_ERROR" > told'


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "finished"),
        (HermesError("the loss is nan"), "failed"),
        (Interrupted("stopped at step 3"), "stopped"),
        (KeyboardInterrupt(), "stopped"),
    ],
)
def test_it_runs_however_the_run_ends(tmp_path, monkeypatch, error, status):
    monkeypatch.chdir(tmp_path)
    said = []
    expected = nullcontext() if error is None else pytest.raises(type(error))
    with expected, FinishCommand(TELL, "run", said.append):
        if error is not None:
            raise error
    assert (tmp_path / "told").read_text() == f"{status}|{tmp_path / 'run'}|{error or ''}"
    ended = "failed" if status == "failed" else f"is {status}"
    assert said == [f"the run {ended}; running --on-finish: {TELL}"]


def test_its_own_failure_is_a_warning(tmp_path):
    said = []
    with FinishCommand("exit 3", tmp_path, said.append):
        pass
    assert said[-1] == "Warning: --on-finish ended with 3"


@pytest.mark.parametrize("said", ["x" * 200_000, "a\0b", "half of \ud800 a pair"])
def test_it_runs_whatever_the_error_says(tmp_path, monkeypatch, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HermesError) as raised, FinishCommand(TELL, "run", lambda line: None):
        raise HermesError(said)
    assert str(raised.value) == said
    assert (tmp_path / "told").read_text().startswith("failed|")


def test_a_command_that_cannot_be_started_hides_no_error(tmp_path):
    told = []
    with pytest.raises(HermesError, match="the loss"), FinishCommand("a\0b", "run", told.append):
        raise HermesError("the loss is nan")
    assert told[-1] == "Warning: --on-finish could not be started: embedded null byte"


def test_a_run_in_python_runs_it_and_a_dry_run_does_not(go, tmp_path):
    command = f"echo $HERMES_STATUS >> {tmp_path / 'told'}"
    go(max_steps=2, on_finish=command, dry_run=True)
    go(max_steps=2, on_finish=command)
    with pytest.raises(HermesError):
        go(max_steps=2, on_finish=command)  # the folder has a run
    assert (tmp_path / "told").read_text().split() == ["finished", "failed"]
