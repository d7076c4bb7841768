"""Starting the processes of a test on this machine, and ending them with it."""

import contextlib
import json
import os
import socket
import subprocess
import sys

WAIT = 120


def free_ports(count):
    """Ports of 127.0.0.1 that nobody listens at now."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


def run_ranks(script, backend, size, folder, *more):
    """Run SCRIPT once a rank until all end well; what went wrong fails the test."""
    ports = free_ports(size)
    (folder / "hosts.json").write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = []
    try:
        for rank in range(size):
            command = [sys.executable, str(script), backend, str(rank), str(size), str(ports[0])]
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
