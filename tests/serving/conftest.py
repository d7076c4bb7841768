"""A server of a little model on loopback, in a thread of its own."""

import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from hermes.api_serving import open_served_model
from hermes.finetuning.base_model import open_base_model
from hermes.serving.run_server import OWN_NAMES, bind, run_server
from tests.training.support import SPEC, Runs, corpus_in
from tests.waiting import PATIENCE


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A model that was trained for a few steps."""
    folder = tmp_path_factory.mktemp("served")
    spec = SPEC.replace("max_seq_len: 32", "max_seq_len: 128")
    return Runs(corpus_in(folder), folder)("model", max_steps=8, spec=spec).output


class Served:
    """A running server."""

    def __init__(self, model, **options):
        self.model, self._stops, started = model, threading.Event(), threading.Event()
        self._listening = bind("127.0.0.1", 0)
        self.port = self._listening.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(
            target=run_server,
            args=(model, self._listening),
            kwargs={"stop": self._stops.is_set, "on_start": started.set, **options},
            daemon=True,
        )
        self.thread.start()
        assert started.wait(PATIENCE)

    def is_stopped(self):
        """Whether its end has begun."""
        return self._stops.is_set()

    def stop(self):
        self._stops.set()
        self.thread.join(PATIENCE)
        self._listening.close()
        return not self.thread.is_alive()


@pytest.fixture(scope="session")
def make_server(checkpoint):
    """Makes servers of the model; all end with the tests."""
    servers = []

    def make(*, api_key=None, hosts=OWN_NAMES, **options):
        backend = options.pop("backend", "torch")
        model = open_served_model(checkpoint, model_name="little", backend=backend, **options)
        servers.append(Served(model, api_key=api_key, hosts=hosts))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def server(make_server):
    return make_server()


@pytest.fixture(scope="session")
def base(checkpoint):
    return open_base_model(checkpoint, train=False)


@contextmanager
def serve_in_process(*command):
    """A server in a process of its own, which SIGTERM ends well: the process, its API's address.

    command: what follows `python -m`, but for --port.
    """
    words = [sys.executable, "-m", *map(str, command), "--port", "0"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        lines = []
        while not (lines and lines[-1].startswith("API:")):
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        yield process, lines[-1].split()[1]
        process.terminate()
        _, said = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    assert "Traceback" not in said
