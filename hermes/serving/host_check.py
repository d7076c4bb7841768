"""Refuses requests under names that are not this machine's, and those of pages of other sites."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from hermes.serving.errors import ApiError

__all__ = ["HostCheck"]


class HostCheck:
    """Answers only requests whose Host header has one of these names; '*' stands for any.

    Another name is that of a web page's server, which was made to point here so that the page's
    scripts reach this one (DNS rebinding). A name of the form *.example.org stands for all below.
    A page may also ask by the right name, though it cannot read the answer: a browser then says in
    Origin whose page it is, which must be one of the names, too. No Host at all is of HTTP/1.0,
    which no browser speaks.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str]):
        self._app = app
        self._names = [name.lower().strip("[]") for name in hosts]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on the request, or refuse it."""
        refusal = self._find_refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        await JSONResponse(refusal.to_json(), refusal.status)(scope, receive, send)

    def _find_refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        given, origin = headers.get("host", ""), headers.get("origin")
        is_nameless = "host" not in headers and scope["http_version"] == "1.0"
        if not is_nameless and not self._is_known(_strip_port(given).lower()):
            return ApiError(
                400,
                f"the Host header names {given[:100]!r}, which is not this server; ask for it as "
                "localhost, or start it with --allow-host NAME",
                code="unknown_host",
            )
        if origin is not None and not self._is_own_page(origin):
            return ApiError(
                403,
                f"the request is of a page of {origin[:100]!r}, which is not this server; if it is "
                "another name of it, start it with --allow-host NAME",
                kind="permission_error",
                code="unknown_origin",
            )
        return None

    def _is_own_page(self, origin: str) -> bool:
        """Whether a page is the server's, or is none of the web: an extension's or a program's."""
        if origin == "null":  # of a page that hides whose it is
            return "*" in self._names
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        return parts.scheme not in ("http", "https") or self._is_known(parts.hostname or "")

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
