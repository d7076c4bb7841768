"""uvicorn's HTTP, with the API's form for what is no HTTP at all."""

import json

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from hermes.serving.errors import ApiError

__all__ = ["HTTPProtocol"]


class HTTPProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # httptools' or h11's
    """The protocol that uvicorn chooses; of its own answers it has one, to malformed HTTP."""

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be read as a request, and close the connection."""
        body = json.dumps(ApiError(400, f"not a request of HTTP/1.1: {msg}").to_json()).encode()
        head = (
            "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
