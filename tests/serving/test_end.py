"""At the end of a server no request is lost: each is answered, or told that the server ends."""

import asyncio
import json
import socket
import threading
import time

import httpx
import pytest

import hermes.serving.run_server
from hermes.serving.served_model import Limits
from tests.inference.support import hold_steps
from tests.serving.test_errors import read_error
from tests.serving.test_requests import LONG, post
from tests.waiting import PATIENCE, wait_until

ENDING = "the server is ending; ask again once it runs"


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_texts_that_take_longer_than_the_end_waits_are_told_so(make_server, monkeypatch, backend):
    """Running and waiting ones, whole and streamed; those that were done in time are whole."""
    monkeypatch.setattr(hermes.serving.run_server, "FAREWELL", 0)
    monkeypatch.setattr(hermes.serving.run_server, "LAST_WORDS", PATIENCE)
    server = make_server(rows=2, backend=backend)
    engine, served, asked = server.model.engine, server.model.served, []
    close = served.close

    def close_late():
        wait_until(lambda: asked[0].done() and asked[1].done())  # these are in time
        close()

    served.close = close_late
    # No step before the end begins; and not all of a hundred before it is over.
    hold_steps(engine, 50, lambda: served._ends)
    hold_steps(engine, 0, server.is_stopped)

    async def ask(client, number):
        most = 2 if number < 2 else 100
        body = {**LONG, "max_tokens": most, "min_tokens": most, "stream": number % 2 == 1}
        return await client.post(f"{server.address}/v1/completions", json=body)

    async def ask_all():
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            for number in range(8):
                asked.append(asyncio.create_task(ask(client, number)))
                while engine.num_waiting <= number:
                    await asyncio.sleep(0.001)
            ended = await asyncio.to_thread(server.stop)
            return ended, await asyncio.gather(*asked)

    ended, answers = asyncio.run(ask_all())
    assert ended
    whole, streamed = answers[::2], answers[1::2]
    assert [answer.status_code for answer in whole] == [200, 503, 503, 503]
    assert {read_error(answer)["message"] for answer in whole[1:]} == {ENDING}
    for number, answer in enumerate(streamed):
        events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        if answer.status_code == 503:  # it had not begun
            assert read_error(answer)["message"] == ENDING
            continue
        assert events[-1] == "[DONE]"
        last = json.loads(events[-2])
        if number == 0:
            assert last["choices"][0]["finish_reason"] == "length"
        else:
            assert last["error"]["message"] == ENDING


def test_a_request_that_is_being_sent_at_the_end_is_answered(make_server, monkeypatch):
    """Its connection is there, its bytes are not; the end waits no longer than for these."""
    monkeypatch.setattr(hermes.serving.run_server, "DRAIN", 3000)
    server = make_server()
    body = b'{"prompt": "the cat", "max_tokens": 2}'
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as raw:
        ending = threading.Thread(target=server.stop)
        ending.start()
        time.sleep(0.5)  # in which uvicorn would have closed it
        raw.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        said = raw.recv(1 << 16)
    ending.join(PATIENCE)
    assert said.startswith(b"HTTP/1.1 200 OK")
    assert not ending.is_alive()


def test_a_body_that_does_not_come_is_given_up(make_server):
    server = make_server()
    server.model.limits = Limits(seconds=0.3)
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as raw:
        raw.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"
        )
        said = b""
        while part := raw.recv(1 << 16):
            said += part
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    error = json.loads(body)["error"]
    assert error["message"] == "the body was not whole after 0.3 s"
    assert error["type"] == "timeout_error"
    server.model.limits = Limits()
    wait_until(lambda: server.model.engine.num_running == 0)
    assert post(server, {"prompt": "the cat", "max_tokens": 2}).status_code == 200
