"""Refuses requests under names that are not this machine's."""

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from hermes.serving.errors import ApiError

__all__ = ["HostCheck"]


class HostCheck:
    """Answers only requests whose Host header has one of these names; '*' stands for any.

    Another name is that of a web page's server, which was made to point here so that the page's
    scripts reach this one (DNS rebinding). A name of the form *.example.org stands for all below.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str]):
        self._app = app
        self._names = [name.lower().strip("[]") for name in hosts]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on the request, or refuse it."""
        given = Headers(scope=scope).get("host", "") if scope["type"] == "http" else None
        if given is None or self._is_known(_strip_port(given).lower()):
            await self._app(scope, receive, send)
            return
        refusal = ApiError(
            400,
            f"the Host header names {given[:100]!r}, which is not this server; ask for it as "
            "localhost, or start it with --allow-host NAME",
            code="unknown_host",
        )
        await JSONResponse(refusal.to_json(), refusal.status)(scope, receive, send)

    def _is_known(self, host: str) -> bool:
        return any(
            name in ("*", host) or (name.startswith("*.") and host.endswith(name[1:]))
            for name in self._names
        )


def _strip_port(host: str) -> str:
    """The name or address of a Host header: 'localhost:8000', '[::1]:8000'."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
