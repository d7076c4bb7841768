"""uvicorn's HTTP, with the API's form for what is no HTTP at all."""

import json

from uvicorn.protocols.http.h11_impl import H11Protocol

from hermes.serving.errors import ApiError

__all__ = ["HTTPProtocol"]


class HTTPProtocol(H11Protocol):
    """uvicorn's by h11, whatever else is installed; of its own answers it has one, to no HTTP.

    By httptools a stream has chunks for clients of HTTP/1.0, too, which know none.
    """

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be read as a request, and close the connection."""
        body = json.dumps(ApiError(400, f"not a request of HTTP/1.1: {msg}").to_json()).encode()
        head = (
            "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
