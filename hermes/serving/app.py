"""The application: which path answers what, and what every request must have."""

import asyncio
import hmac
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from hermes.serving.body import parse_body, shorten
from hermes.serving.chat_completions import ChatCompletion
from hermes.serving.completions import Completion
from hermes.serving.errors import ApiError
from hermes.serving.host_check import HostCheck
from hermes.serving.served_model import ServedModel

__all__ = ["make_app"]

PAGE = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
SAFE = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
# The rest of a body that was given up may still come, and is not the next request.
HEADERS = {429: {"Retry-After": "1"}, 408: {"Connection": "close"}}
MODELS, COMPLETIONS, CHAT = "/v1/models", "/v1/completions", "/v1/chat/completions"
Handler = Callable[[Request], Awaitable[Response]]


def make_app(model: ServedModel, *, api_key: str | None = None, hosts: Sequence[str]) -> Starlette:
    """The ASGI application of a model.

    api_key: what clients of the API must send, None for none. hosts: names in the Host header that
    are answered; any other is a page of the web whose name was made to point here.
    """
    engine, stats = model.engine, model.statistics
    stats.watch("hermes_running_texts", "Texts that are being written", lambda: engine.num_running)
    stats.watch("hermes_waiting_texts", "Texts that wait for a row", lambda: engine.num_waiting)

    async def show_models(request: Request) -> Response:
        entry = {
            "id": model.name,
            "object": "model",
            "created": model.made,
            "owned_by": "hermes",
            "max_model_len": engine.capacity,
            "has_chat_template": model.encoder is not None,
        }
        if not request.path_params.get("name"):
            return JSONResponse({"object": "list", "data": [entry]})
        if request.path_params["name"] != model.name:
            raise ApiError(404, f"there is no such model; it is {model.name!r}", param="model")
        return JSONResponse(entry)

    async def show_health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": model.name})

    async def show_metrics(request: Request) -> Response:
        return Response(stats.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def show_page(request: Request) -> Response:
        name, kind = PAGE[request.url.path]
        data = (files("hermes.serving") / "page" / name).read_bytes()
        return Response(data, media_type=kind, headers=SAFE)

    async def complete(request: Request) -> Response:
        return await _answer(request, Completion(await _read_json(request, model), model))

    async def complete_chat(request: Request) -> Response:
        return await _answer(request, ChatCompletion(await _read_json(request, model), model))

    def guard(handle: Handler) -> Handler:
        """The handler behind the key, with every refusal in the API's form, and counted."""

        async def answer(request: Request) -> Response:
            try:
                if api_key is not None:
                    _require_key(request, api_key)
                response = await handle(request)
            except ApiError as error:
                headers = HEADERS.get(error.status, {})
                response = JSONResponse(error.to_json(), error.status, headers)
            except ClientDisconnect:
                response = Response(status_code=499)
            except Exception:
                count(request, 500)
                raise
            count(request, response.status_code)
            return response

        def count(request: Request, status: int) -> None:
            stats.requests.labels(request.scope["route"].path, status).inc()

        return answer

    @asynccontextmanager
    async def run_engine(app: Starlette) -> AsyncIterator[None]:
        with model.served:
            yield

    return Starlette(
        routes=[
            *(Route(path, show_page) for path in PAGE),
            Route("/health", show_health),
            Route("/metrics", show_metrics),
            Route(MODELS, guard(show_models)),
            Route(f"{MODELS}/{{name:path}}", guard(show_models)),
            Route(COMPLETIONS, guard(complete), methods=["POST"]),
            Route(CHAT, guard(complete_chat), methods=["POST"]),
        ],
        middleware=[Middleware(HostCheck, hosts=hosts)],
        exception_handlers={404: _refuse_path, 405: _refuse_path, 500: _report_fault},
        lifespan=run_engine,
    )


def _require_key(request: Request, api_key: str) -> None:
    header = request.headers.get("authorization", "")
    scheme, _, rest = header.partition(" ")
    given = (rest.strip() if scheme.lower() == "bearer" else header).encode()
    if not hmac.compare_digest(given, api_key.encode()):
        raise ApiError(
            401,
            "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'",
            kind="authentication_error",
            code="invalid_api_key",
        )


async def _read_json(request: Request, model: ServedModel) -> Any:
    """The body's JSON value. Raises ApiError for one that is too large, too slow, or no JSON."""
    limits, data = model.limits, bytearray()
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() not in ("", "identity"):
        raise ApiError(
            415, f"the body is coded as {shorten(repr(coding))}; send it as it is, in UTF-8"
        )
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in request.stream():
                data += part
                if len(data) > limits.body:
                    raise ApiError(413, f"the body has more than {limits.body:,} bytes")
    except TimeoutError:
        raise ApiError(
            408, f"the body was not whole after {limits.seconds:g} s", kind="timeout_error"
        ) from None
    return parse_body(data)


async def _answer(request: Request, completion: Completion | ChatCompletion) -> Response:
    """The answer, whole or as server-sent events; a client that goes away ends its texts."""
    if not completion.streams:
        return JSONResponse(await _run_while_connected(request, completion.answer()))
    events = completion.stream()
    # What is refused is refused with its status, so the first event comes before the headers.
    first = await anext(events, None)
    return StreamingResponse(
        _send_events(first, events),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _send_events(first: Any, events: AsyncGenerator[Any]) -> AsyncGenerator[bytes]:
    async with aclosing(events):
        try:
            if first is not None:
                yield _render_event(first)
            async for event in events:
                yield _render_event(event)
        except ApiError as error:
            yield _render_event(error.to_json())
        except Exception as error:
            yield _render_event(_make_fault(error).to_json())
            raise
        yield b"data: [DONE]\n\n"


def _render_event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


async def _run_while_connected(request: Request, work: Awaitable[Any]) -> Any:
    """Await the work, unless the client goes away first. Raises ClientDisconnect."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for one in (task, watch):
            one.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refuse_path(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    why = "there is no such path" if status == 404 else f"{request.method} is not answered here"
    api = f"the API is GET {MODELS}, POST {COMPLETIONS} and POST {CHAT}"
    refusal = ApiError(status, f"{request.url.path}: {why}; {api}")
    return JSONResponse(refusal.to_json(), status)


async def _report_fault(request: Request, error: Exception) -> Response:
    return JSONResponse(_make_fault(error).to_json(), 500)


def _make_fault(error: Exception) -> ApiError:
    """What is said of an error that is nobody's mistake but the server's."""
    why = f"{type(error).__name__} in the server; its log says more"
    return ApiError(500, why, kind="server_error")
