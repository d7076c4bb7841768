"""Starting the processes of a test on this machine, and ending them with it."""

import contextlib
import json
import os
import socket
import subprocess
import sys

WAIT = 400


def free_ports(count):
    """Ports of 127.0.0.1 that nobody listens at now."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


def hermes(folder, *arguments, code=0):
    """Run the command there; what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "hermes", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=WAIT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stderr


def lines(run):
    """A run's metrics, all but how fast."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in found]


def run_ranks(script, backend, size, folder, *more):
    """Run SCRIPT once a rank until all end well; what went wrong fails the test."""
    ports = free_ports(size)
    (folder / "hosts.json").write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = []
    try:
        for rank in range(size):
            python = [sys.executable, "-X", "faulthandler"]
            command = [*python, str(script), backend, str(rank), str(size), str(ports[0])]
            started.append(
                subprocess.Popen(
                    [*command, str(folder), *more],
                    env=environment,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        for rank, process in enumerate(started):
            _, errors = process.communicate(timeout=WAIT)
            assert process.returncode == 0, f"rank {rank}: {errors[-3000:]}"
    finally:
        for process in started:
            process.kill()
            process.wait()
