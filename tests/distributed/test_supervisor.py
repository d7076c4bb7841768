"""What a launcher does about its processes: whom it names, spares, wakes, asks again and kills."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from hermes.errors import StorageError
from hermes_cli.launch import hang_watch, supervisor, worker_status
from hermes_cli.launch.signals import Signals
from hermes_cli.launch.supervisor import LONGEST_GRACE, Death, Writing, _Supervisor, supervise
from hermes_cli.launch.worker_status import StatusFile, WorkerStatus, read_statuses
from tests.distributed.support import WAIT


def test_who_died_is_named_before_who_then_hung(tmp_path, capsys):
    watch = _Supervisor(lambda folder: None, str(tmp_path), Signals(), 0)
    watch._hung = {11: WorkerStatus(1, 0, 11)}
    watch._deaths = [Death(0, 10, -9)]
    assert watch.report() == 76
    said = capsys.readouterr().err
    assert said.startswith("Error: rank 0 (process 10) was ended by SIGKILL, so all ended\n")
    watch._deaths = [Death(1, 11, -9)]
    assert watch.report() == 76
    said = capsys.readouterr().err
    assert said.startswith("Error: rank 1 (process 11) hung and was killed\n")
    watch._told = [
        WorkerStatus(0, 0, 11, ("Error: the processes lost each other",), 76),
        WorkerStatus(1, 0, 12, ("Error: rank 0 fell silent",), 76),
    ]
    assert watch.report() == 76
    assert "\n  rank 0 fell silent\n" in capsys.readouterr().err


def test_who_said_no_code_did_not_end_well(tmp_path, capsys):
    """Its error was told and its end seen by nobody: the run is not done."""
    watch = _Supervisor(lambda folder: None, str(tmp_path), Signals(), 0)
    watch._told = [
        WorkerStatus(0, 0, 11, (), 0),
        WorkerStatus(1, 0, 12, ("Error: rank 0 fell silent",)),
    ]
    assert watch.report() == 76
    assert capsys.readouterr().err == "Error: rank 0 fell silent\n  resume with --resume\n"


def test_who_ended_with_no_word_is_named(tmp_path, capsys):
    """With exit code 0, which a launcher takes for well; who missed it tells what it saw."""
    watch = _Supervisor(lambda folder: None, str(tmp_path), Signals(), 0)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    watch._told = [
        WorkerStatus(0, 0, 11, ("Error: the processes lost each other",), 76),
        WorkerStatus(1, 0, gone.pid),
    ]
    assert watch.report() == 76
    assert capsys.readouterr().err == (
        f"Error: rank 1 (process {gone.pid}) ended before the run did, without a word\n"
        "  the processes lost each other\n  resume with --resume\n"
    )


@pytest.mark.parametrize(
    ("written", "patience", "sent"),
    [(False, 60, {signal.SIGCONT}), (True, 60, set()), (True, 0, {signal.SIGCONT})],
)
def test_who_writes_a_checkpoint_is_spared_for_a_while(tmp_path, written, patience, sent):
    writing = Writing(lambda: written, patience)
    watch = _Supervisor(lambda folder: None, str(tmp_path), Signals(), 0, writing)
    watch._told = [WorkerStatus(0, 0, os.getpid()), WorkerStatus(1, 0, 11, ("Error: gone",), 76)]
    watch._lost_since = time.monotonic() - LONGEST_GRACE - 1
    seen = set()
    watch._send = lambda number, to: seen.update({number} if [*to] else ())
    watch._look()
    assert seen == sent


@pytest.mark.parametrize("seconds", [2, 4])
def test_who_is_stopped_longer_than_the_limit_is_killed(tmp_path, monkeypatch, seconds):
    """Before the first step, too, when the others wait for as long as compiling may take."""
    monkeypatch.setattr(hang_watch, "LEFT_TO_OTHERS", 1.0)
    watch = _Supervisor(lambda folder: None, str(tmp_path), Signals(), 0, Writing(patience=2.0))
    with subprocess.Popen(["sleep", "60"]) as process:
        watch._told = [WorkerStatus(0, 0, os.getpid()), WorkerStatus(1, 0, process.pid)]
        process.send_signal(signal.SIGSTOP)
        end_at = time.monotonic() + WAIT
        while not hang_watch.is_stopped(process.pid):
            assert time.monotonic() < end_at
        assert not hang_watch.is_stopped(os.getpid())
        for _ in range(seconds):
            watch._hangs._ticked_at = 0.0
            watch._look()
        if seconds == 4:
            assert process.wait(WAIT) == -signal.SIGKILL
        assert (process.poll() is None) == (seconds == 2)
        process.kill()
    assert set(watch._hung) == ({process.pid} if seconds == 4 else set())


def test_who_is_stopped_on_its_way_out_is_woken(tmp_path, monkeypatch):
    """All of the run is done, and nobody else would ever end it."""
    monkeypatch.setattr(supervisor, "GRACE", 0.2)
    watch = _Supervisor(lambda folder: None, str(tmp_path), Signals(), 0)
    with subprocess.Popen(["sleep", "60"]) as process:
        watch._told = [WorkerStatus(0, 0, 10**7, (), 0), WorkerStatus(1, 0, process.pid, (), 0)]
        process.send_signal(signal.SIGSTOP)
        end_at = time.monotonic() + WAIT
        while not hang_watch.is_stopped(process.pid):
            assert time.monotonic() < end_at
        while hang_watch.is_stopped(process.pid):
            assert time.monotonic() < end_at
            watch._look()
            time.sleep(0.05)
        assert process.poll() is None
        process.kill()


def test_an_agent_that_waits_for_who_cannot_answer_is_left_behind(tmp_path, monkeypatch, capsys):
    """One that was killed between its report and its end: torch's agent would wait for ever."""
    monkeypatch.setattr(supervisor, "LONGEST_GRACE", 0.2)
    with subprocess.Popen(["sleep", "60"]) as process:

        def start(folder):
            for rank in (0, 1):
                StatusFile(folder, rank, 0).write_exit_code(0)
            for path in Path(folder).glob("*.jsonl"):
                path.write_text(path.read_text().replace(str(os.getpid()), str(process.pid)))
            time.sleep(WAIT)

        begun = time.monotonic()
        supervise(start, Signals())
        assert time.monotonic() - begun < WAIT / 2
        assert process.wait(WAIT) == -signal.SIGKILL
    assert capsys.readouterr().err == ""


def test_no_processes_start_where_they_could_not_report(monkeypatch):
    monkeypatch.setattr(supervisor, "count_free_bytes", lambda folder: 4096)
    with pytest.raises(StorageError) as refused:
        supervise(lambda folder: pytest.fail("started"), Signals())
    assert str(refused.value) == (
        f"{tempfile.gettempdir()} has 4096 bytes free, and processes that start need 1000000 there "
        "for what they report; make room or set TMPDIR to another folder"
    )


def test_a_disk_that_fills_meanwhile_silences_no_worker(tmp_path, monkeypatch):
    report = StatusFile(tmp_path, 0, 0)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size >= worker_status.ROOM  # which nobody else can take
    size, write = path.stat().st_size, os.pwrite

    def write_within(descriptor, line, at):
        if at + len(line) > size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, line, at)

    monkeypatch.setattr(os, "pwrite", write_within)
    report.write_joined()
    report.write_line("x" * size)
    report.write_line("Error: no")
    report.write_exit_code(74)
    assert path.stat().st_size == size
    assert read_statuses(tmp_path) == [
        WorkerStatus(0, 0, os.getpid(), ("Error: no",), 74, joined=True)
    ]


def test_who_was_interrupted_while_starting_is_asked_again_once(tmp_path):
    """torch's agent waits for it half a minute, and it waits for the others."""
    asked = []
    for signals, wanted in ((Signals(), [(signal.SIGTERM, [11])]), (AskedToStop(), [])):
        watch = _Supervisor(lambda folder: None, str(tmp_path), signals, 0)
        watch._told = [WorkerStatus(1, 0, 11, ("Error: interrupted",), 130)]
        watch._quiet_since = time.monotonic()
        watch._send = lambda number, to: asked.append((number, [one.pid for one in to]))
        watch._look()
        watch._look()
        assert [one for one in asked if one[1]] == wanted
        asked.clear()


class AskedToStop(Signals):
    """A signal came."""

    def has_come(self):
        return True


def test_an_error_of_one_is_told_and_not_that_it_was_missed(tmp_path, capsys):
    watch = _Supervisor(lambda folder: None, str(tmp_path), Signals(), 0)
    watch._told = [
        WorkerStatus(0, 0, 10, ("Error: rank 1 died",), 76),
        WorkerStatus(1, 0, 11, ("Warning: slow", "Error: full"), 74),
    ]
    assert watch.report() == 74
    assert capsys.readouterr().err == "Error: full\n"
