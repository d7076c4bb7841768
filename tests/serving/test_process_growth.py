"""The process of a server is as large after ten thousand requests as before."""

import http.client
import json
import threading

import pytest

from tests.memory_growth import needs_proc, read_private_memory
from tests.serving.conftest import serve_in_process
from tests.waiting import PATIENCE

WARM = 14_000  # requests, which fill caches; after 4,000 torch's still grew by 1,044 bytes each
# Bytes of a request: 163 were measured in torch's process, and 3,144 after 4,000 where kernels of
# bfloat16 were kept for every shape.
MOST = 1000
CLIENTS = 4
MESSAGES = [{"role": "user", "content": "the cat sat on a mat"}]


def make_request(number):
    """A path, a body and the status of its answer: eight kinds of small requests."""
    body = {"max_tokens": 1 + number % 4, "seed": number}
    chat, plain = "/v1/chat/completions", "/v1/completions"
    talk = [*MESSAGES, {"role": "assistant", "content": "x" * (number % 30)},
            {"role": "user", "content": str(number)}]  # fmt: skip
    return (
        (plain, {**body, "prompt": "the cat" + " sat" * (number % 7)}, 200),
        (chat, {**body, "messages": MESSAGES}, 200),
        (plain, {**body, "prompt": "it ran", "stream": True}, 200),
        (plain, {"prompt": number}, 400),
        (chat, {**body, "messages": MESSAGES, "stream": True, "logprobs": True}, 200),
        (plain, {**body, "prompt": "the cat", "n": 2, "stop": ["at"]}, 200),
        (plain, {**body, "prompt": f"the cat {number}", "logprobs": 2, "echo": True}, 200),
        (chat, {**body, "messages": talk}, 200),
    )[number % 8]


def ask(port, numbers, faults):
    """Ask one after another over one connection."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    for number in numbers:
        path, body, expected = make_request(number)
        client.request("POST", path, json.dumps(body))
        answer = client.getresponse()
        said = answer.read()
        if answer.status != expected:
            faults.append((body, answer.status, said))
    client.close()


def ask_all(port, numbers):
    faults = []
    clients = [
        threading.Thread(target=ask, args=(port, numbers[first::CLIENTS], faults))
        for first in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert faults == []


def measure(checkpoint, backend, count, leak=0):
    """Bytes that each of `count` requests leaves behind, once others have filled the caches."""
    command = ("tests.serving.growth_server", leak, "--checkpoint", checkpoint)
    with serve_in_process(*command, "--backend", backend) as (process, address):
        port = int(address.removesuffix("/v1").rpartition(":")[2])
        ask_all(port, range(WARM))
        before = read_private_memory(process.pid)
        ask_all(port, range(WARM, WARM + count))
        after = read_private_memory(process.pid)
    return (after - before) / count


@needs_proc
@pytest.mark.long
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_ten_thousand_requests_leave_nothing(checkpoint, backend):
    assert measure(checkpoint, backend, 10_000) < MOST


@needs_proc
@pytest.mark.long
def test_requests_that_leave_something_are_seen(checkpoint):
    assert measure(checkpoint, "mlx", 2000, leak=10_000) > 2 * MOST
