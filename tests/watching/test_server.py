"""What the page's server says of runs, to this machine alone."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest

from hermes.errors import HermesError
from hermes.training.metrics_file import read_metrics
from hermes.watching import run_view
from hermes.watching.run_view import RunView
from hermes.watching.server import WatchServer
from tests.training.support import Runs, corpus_in
from tests.waiting import PATIENCE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with two runs, of which one was stopped."""
    folder = tmp_path_factory.mktemp("watched")
    go = Runs(corpus_in(tmp_path_factory.mktemp("corpus")), folder)
    go("done", eval_every=4, sample_every=6, sample_tokens=3, sample_prompt="the cat")
    go("halted", stop_at=5, lr=1e-2)
    return folder


@pytest.fixture
def serve():
    servers = []

    def start(*folders):
        servers.append(WatchServer(folders))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return servers[-1].url

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def read(url, **headers):
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return answer.read(), answer.headers


def read_json(url):
    return json.loads(read(url)[0])


def test_runs_are_found_in_a_folder_and_described(folder, serve):
    done, halted = read_json(serve(folder) + "runs")
    assert (done["name"], done["state"], done["total_steps"]) == ("done", "finished", 12)
    assert done["checkpoints"] == [12]
    assert done["settings"]["lr"] == 3e-3
    assert (halted["name"], halted["state"]) == ("halted", "stopped")
    assert halted["settings"]["lr"] == 1e-2


def test_a_run_that_ended_by_patience_stopped_early(folder, tmp_path):
    go = Runs(corpus_in(tmp_path), tmp_path)
    go("early", eval_every=1, patience=1, min_delta=9.0, max_steps=6)
    assert RunView(tmp_path / "early").describe()["state"] == "stopped early"
    go("asked", eval_every=1, patience=5, min_delta=9.0, max_steps=6, stop_at=2)
    assert RunView(tmp_path / "asked").describe()["state"] == "stopped"


def test_a_run_in_training_is_said_to_be(folder, serve):
    lock = folder / "halted" / ".lock"
    before = lock.read_bytes()
    lock.write_text(json.dumps({"host": socket.gethostname(), "process": 1}))
    assert read_json(serve(folder) + "runs")[1]["state"] == "training"
    lock.write_bytes(before[:5])
    assert read_json(serve(folder) + "runs")[1]["state"] == "stopped"
    lock.write_bytes(before)


def test_metrics_come_in_parts_and_only_once(folder, serve):
    url = serve(folder / "done")
    whole = read_json(url + "metrics?run=0")
    assert whole["lines"] == read_metrics(folder / "done")
    again = read_json(f"{url}metrics?run=0&start={whole['next']}")
    assert again == {"lines": [], "next": whole["next"], "restarted": False}
    shorter = read_json(f"{url}metrics?run=0&start={whole['next'] + 1}")
    assert shorter["restarted"]
    assert shorter["lines"] == whole["lines"]


def test_torn_and_odd_lines_wait_or_are_passed_over(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1, "loss": 2.0}\nodd\n[1]\n{"step": 2, "lo')
    part = RunView(tmp_path).read_metrics(0)
    assert part.lines == [{"step": 1, "loss": 2.0}]
    with open(file, "ab") as more:
        more.write(b'ss": 1.5}\n')
    assert RunView(tmp_path).read_metrics(part.next).lines == [{"step": 2, "loss": 1.5}]


ODD = (b'{"step": 1, "loss": NaN}', b'{"step": 1, "loss": "x"}', b"[" * 99_999, b'{"step": 1e5}')


def test_odd_lines_and_very_long_ones_do_not_end_a_page(tmp_path, monkeypatch):
    file, good = tmp_path / "metrics.jsonl", b'{"step": 1, "loss": 2.0}'
    file.write_bytes(b"\n".join([good, *ODD, good, b'{"step": 2, "x": ' + b"1" * 5_000, good, b""]))
    monkeypatch.setattr(run_view, "PART", 1_000)
    lines, start = [], 0
    for _ in range(200):
        part = RunView(tmp_path).read_metrics(start)
        lines, start = lines + part.lines, part.next
    assert (lines, start) == ([{"step": 1, "loss": 2.0}] * 3, file.stat().st_size)


@pytest.mark.parametrize(
    "holder", [b"[" * 99_999, b'{"process": 1e400}', b'{"process": %d}' % 9**99]
)
def test_a_lock_that_says_nonsense_is_of_no_process(folder, tmp_path, serve, holder):
    run = tmp_path / "run"
    shutil.copytree(folder / "halted", run)
    host = b'{"host": "%s", ' % socket.gethostname().encode()
    (run / ".lock").write_bytes(holder.replace(b"{", host))
    assert read_json(serve(run) + "runs")[0]["state"] == "stopped"
    (run / ".lock").unlink()
    os.mkfifo(run / ".lock")
    assert read_json(serve(run) + "runs")[0]["state"] == "stopped"


def test_samples_that_are_no_text_are_shown_or_passed_over(folder, tmp_path, serve):
    run = tmp_path / "run"
    shutil.copytree(folder / "done", run)
    lines = (b'{"step": 1, "text": "\\ud800"}', b"[" * 99_999, b'{"step": 2, "text": NaN}', b"")
    (run / "samples.jsonl").write_bytes(b"\n".join(lines))
    assert read_json(serve(run) + "samples?run=0") == [{"step": 1, "text": "\ud800"}]


def test_samples_are_there(folder, serve):
    samples = read_json(serve(folder / "done") + "samples?run=0")
    assert [(one["step"], one["prompt"]) for one in samples] == [(6, "the cat"), (12, "the cat")]


def test_the_page_loads_nothing_from_elsewhere(folder, serve):
    url = serve(folder)
    page, headers = read(url)
    assert headers["Content-Security-Policy"].startswith("default-src 'self'")
    for name in ("", "page.css", "charts.js", "page.js"):
        text = read(url + name)[0]
        assert text
        assert b"http://" not in text
        assert b"https://" not in text
    assert page.startswith(b"<!doctype html>")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("metrics?run=7", 400),
        ("metrics?run=-1", 400),
        ("metrics?run=x", 400),
        ("samples", 400),
        ("../run.yaml", 404),
        ("run.yaml", 404),
        ("%2e%2e/server.py", 404),
    ],
)
def test_nothing_else_is_served(folder, serve, path, code):
    with pytest.raises(urllib.error.HTTPError) as refused:
        read(serve(folder) + path)
    assert refused.value.code == code


def test_another_sites_name_is_refused(folder, serve):
    """A page of the web whose name is made to point here could read every run otherwise."""
    url = serve(folder)
    with pytest.raises(urllib.error.HTTPError) as refused:
        read(url + "runs", Host="example.org")
    assert refused.value.code == 403
    assert read(url + "runs", Host="localhost:1")[0]


def test_a_folder_that_is_not_there_and_a_port_that_is_taken_are_refused(folder, tmp_path, serve):
    with pytest.raises(HermesError, match="no such folder; give a run"):
        WatchServer([tmp_path / "none"])
    port = int(serve(folder).rsplit(":", 1)[1].strip("/"))
    with pytest.raises(HermesError, match=f"cannot listen on port {port}: address already in use"):
        WatchServer([folder], port)
    with pytest.raises(HermesError, match="cannot listen on port 70000"):
        WatchServer([folder], 70_000)


def test_a_new_run_appears_while_the_page_is_open(folder, tmp_path, serve):
    url = serve(tmp_path)
    assert read_json(url + "runs") == []
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "run.yaml").write_text("lr: 0.1\nmax_steps: 7\n")
    (found,) = read_json(url + "runs")
    assert (found["name"], found["state"], found["total_steps"]) == ("later", "stopped", 7)


def test_the_command_serves_the_page_until_it_is_interrupted(folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "hermes", "watch", str(folder), "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = process.stderr.readline()
        url = re.match(r"the page is at (http://\S+); Ctrl-C ends it", said)[1]
        assert b"<html" in read(url)[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) == 130
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
