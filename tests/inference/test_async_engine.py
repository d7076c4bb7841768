"""The engine under asyncio: many clients, some of whom leave; the end."""

import asyncio

import pytest

from hermes.errors import HermesError
from hermes.inference.async_engine import AsyncEngine
from hermes.inference.engine import Engine, QueueIsFull
from hermes.inference.request import Request
from hermes.inference.sampling import GREEDY, Sampling
from tests.inference.support import V, hold_steps, make_model
from tests.inference.test_engine import complete_alone, make_requests

BACKENDS = ["torch", "mlx"]


async def collect(served, request):
    """The tokens and the finish reason of a stream."""
    tokens = []
    async for piece in served.stream(request):
        if piece.choice is not None:
            tokens.append(piece.choice.token)
        reason = piece.finish_reason
    return tuple(tokens), reason


@pytest.mark.parametrize("backend", BACKENDS)
def test_clients_get_the_texts_that_they_would_get_alone(backend):
    model = make_model(backend)
    requests = make_requests(20)

    async def serve(served):
        return await asyncio.gather(*(collect(served, request) for request in requests))

    with AsyncEngine(Engine(model, rows=4)) as served:
        found = asyncio.run(serve(served))
    assert found == [complete_alone(model, request) for request in requests]


def test_a_client_that_leaves_ends_its_text():
    engine = Engine(make_model("torch"), rows=1)

    async def leave(served):
        stream = served.stream(Request((1,), 47, GREEDY))
        async for _ in stream:
            break
        await stream.aclose()
        return await collect(served, Request((2, 3), 3, GREEDY))

    with AsyncEngine(engine) as served:
        tokens, reason = asyncio.run(leave(served))
    assert (len(tokens), reason) == (3, "length")
    assert engine.num_running == 0


def test_refusals_and_failures_reach_the_client():
    engine = Engine(make_model("torch"), rows=1, max_queue=1)
    banned = Sampling(banned=tuple((token,) for token in range(V)))

    async def ask(served):
        with pytest.raises(HermesError, match="the prompt is empty"):
            await collect(served, Request(()))
        with pytest.raises(HermesError, match="no token may come next"):
            await collect(served, Request((1,), 3, banned))
        results = await asyncio.gather(
            *(collect(served, Request((1,), 20, GREEDY)) for _ in range(12)),
            return_exceptions=True,
        )
        assert {type(one) for one in results} <= {tuple, QueueIsFull}
        assert any(isinstance(one, QueueIsFull) for one in results)

    with AsyncEngine(engine) as served:
        asyncio.run(ask(served))


def test_closing_ends_what_runs_and_the_thread():
    engine = Engine(make_model("torch"), rows=1)

    async def close(served):
        running = [
            asyncio.create_task(collect(served, Request((1,), 47, GREEDY))) for _ in range(3)
        ]
        while not engine.num_running:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(served.close)
        return await asyncio.gather(*running)

    served = AsyncEngine(engine)
    hold_steps(engine, 5, lambda: served._ends)
    with served:
        found = asyncio.run(close(served))
    assert {reason for _, reason in found} == {"cancelled"}
    assert not served._thread.is_alive()
