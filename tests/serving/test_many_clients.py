"""200 clients at once, and those that go away, read slowly, or send what is no request."""

import asyncio
import json
import resource

import httpx
import pytest

from tests.waiting import PATIENCE, wait_until

CLIENTS = 200
MALFORMED = (
    b"", b"\x00" * 300, b"GET\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{]",
)  # fmt: skip


def make_body(number, **fields):
    body = {"prompt": ["the cat", "it ran", "a mat"][number % 3], "max_tokens": 4 + number % 13,
            "seed": number, **fields}  # fmt: skip
    return json.dumps(body).encode()


def make_post(body):
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


async def ask(client, server, number):
    """A whole answer, or its stream."""
    streams = number % 2 == 1
    answer = await client.post(
        f"{server.address}/v1/completions", content=make_body(number, stream=streams)
    )
    assert answer.status_code == 200, answer.text
    if not streams:
        choice = answer.json()["choices"][0]
        return choice["text"], choice["finish_reason"]
    events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    choices = [json.loads(event)["choices"][0] for event in events[:-1]]
    return "".join(one["text"] for one in choices), choices[-1]["finish_reason"]


async def send_raw(server, data, *, waits=0.0):
    """Send bytes and go away after a time, whatever comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    await asyncio.sleep(waits)
    writer.transport.abort()


async def read_slowly(server, number):
    """A stream of a long text, read a few bytes at a time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=256)
    writer.write(make_post(make_body(number, stream=True, max_tokens=60)))
    said = b""
    while part := await reader.read(64):
        said += part
        await asyncio.sleep(0.002)
    writer.close()
    return said


async def ask_all(server):
    """All good clients' answers while bad ones come and go."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=300, limits=limits) as client:
        good = [asyncio.create_task(ask(client, server, n)) for n in range(CLIENTS)]
        slow = [asyncio.create_task(read_slowly(server, n)) for n in range(8)]
        for number in range(60):
            stream = make_post(make_body(number, stream=number % 2 == 0, max_tokens=100))
            await send_raw(server, stream, waits=0.005 * (number % 5))
            await send_raw(server, MALFORMED[number % len(MALFORMED)])
        return await asyncio.gather(*good), await asyncio.gather(*slow)


@pytest.mark.long
def test_200_clients_lose_nothing_and_leave_nothing(make_server):
    """The answers of a crowd are those of each alone; then no row, thread, socket or page stays."""
    server = make_server(rows=16)
    engine = server.model.engine

    async def ask_one_by_one():
        async with httpx.AsyncClient(timeout=300) as client:
            return [await ask(client, server, n) for n in range(CLIENTS)]

    alone = asyncio.run(ask_one_by_one())
    peaks = []
    for _ in range(3):
        together, slow = asyncio.run(ask_all(server))
        assert together == alone
        assert all(said.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") for said in slow)
        wait_until(lambda: engine.num_running == engine.num_waiting == 0, seconds=60)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert peaks[-1] - peaks[0] < 60_000  # kB, between the first crowd and the third
    assert not server.model.served._unfinished
    metrics = httpx.get(f"{server.address}/metrics", timeout=PATIENCE).text
    assert "hermes_running_texts 0.0" in metrics
    assert "hermes_waiting_texts 0.0" in metrics
    assert httpx.get(f"{server.address}/health", timeout=PATIENCE).json()["status"] == "ok"
