"""A server has as many objects after a thousand requests as before."""

import asyncio
import gc
import re
from time import monotonic, sleep

import httpx
import pytest

from tests.waiting import PATIENCE

MESSAGES = [{"role": "user", "content": "the cat sat on a mat"}]


async def ask(client, address, number):
    """A text, a stream, a chat, a refusal, or a client that goes away."""
    kind, body = number % 5, {"max_tokens": 3 + number % 9, "seed": number, "stream": number % 2}
    body["stream"] = bool(body["stream"])
    if kind == 0:
        refused = await client.post(f"{address}/completions", json={"prompt": number, **body})
        assert refused.status_code == 400
    elif kind == 1:
        path, body = "chat/completions", {**body, "messages": MESSAGES, "logprobs": True}
        assert (await client.post(f"{address}/{path}", json=body)).status_code == 200
    elif kind == 2:
        body |= {"prompt": "it ran", "stream": True, "max_tokens": 60}
        async with client.stream("POST", f"{address}/completions", json=body) as answer:
            async for _ in answer.aiter_bytes():
                break
    else:
        body |= {"prompt": "the cat", "stop": ["at", " mat"], "n": kind - 2}
        assert (await client.post(f"{address}/completions", json=body)).status_code == 200


async def ask_many(address, numbers):
    """All of them, sixteen at a time."""
    free = asyncio.Semaphore(16)

    async def ask_in_turn(client, number):
        async with free:
            await ask(client, address, number)

    async with httpx.AsyncClient(timeout=300) as client:
        await asyncio.gather(*[ask_in_turn(client, number) for number in numbers])


async def wait_until_idle(address):
    """Texts of clients that went away have ended."""
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        while True:
            said = (await client.get(address.removesuffix("v1") + "metrics")).text
            running = re.findall(r"^hermes_(?:running|waiting)_texts (\S+)", said, re.MULTILINE)
            assert len(running) == 2
            if set(running) == {"0.0"}:
                return
            await asyncio.sleep(0.05)


@pytest.mark.long
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_thousand_requests_leave_no_object(make_server, backend):
    address = f"{make_server(backend=backend).address}/v1"

    def count_after(numbers):
        asyncio.run(ask_many(address, numbers))
        asyncio.run(wait_until_idle(address))
        gc.collect()
        return len(gc.get_objects())

    before, after = count_after(range(300)), count_after(range(300, 1300))
    end_at = monotonic() + PATIENCE
    # Connections that close may still have a timer of the server's.
    while after - before >= 100 and monotonic() < end_at:
        sleep(0.5)
        gc.collect()
        after = len(gc.get_objects())
    assert after - before < 100
