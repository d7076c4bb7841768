"""Whatever a server refuses or fails at, it says so in the form that OpenAI's clients read."""

import gzip
import json
import socket
import threading

import httpx
import openai
import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol

from hermes.chat_templates.encoder import ChatEncoder
from hermes.serving.http_protocol import HTTPProtocol
from hermes.serving.run_server import OWN_NAMES
from hermes_torch.row_decoder import RowDecoder
from tests.inference.support import hold_steps
from tests.serving.test_requests import LONG, post
from tests.waiting import PATIENCE, wait_until


def read_error(answer):
    assert answer.headers["content-type"] == "application/json"
    (error,) = answer.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@pytest.mark.parametrize("name", ["example.org", "evil.localhost.org", "", "[::2]:8000", "[", "*"])
@pytest.mark.parametrize("path", ["/", "/v1/models", "/health", "/nowhere"])
def test_another_host_is_refused_in_the_form(server, name, path):
    answer = httpx.get(server.address + path, headers={"Host": name}, timeout=PATIENCE)
    assert answer.status_code == 400
    error = read_error(answer)
    assert error["code"] == "unknown_host"
    assert error["message"].startswith(f"the Host header names {name!r}, which is not this server")


@pytest.mark.parametrize(
    "name", ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]:8000", "[::1]", "x.lan",
             "a.box.lan:1"],
)  # fmt: skip
def test_own_and_added_names_are_answered(make_server, name):
    hosts = ("127.0.0.1", "localhost", "[::1]", "::1", "X.lan", "*.box.lan")
    named = make_server(hosts=hosts)
    address, said = f"{named.address}/health", {"Host": name}
    assert httpx.get(address, headers=said, timeout=PATIENCE).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "https://evil.example:8000", "null", "http://[", "http://"]
)
def test_a_page_of_another_site_cannot_ask(server, origin):
    """A browser sends a body of text/plain to any address, without asking that server first."""
    sent = {"Origin": origin, "Content-Type": "text/plain"}
    answer = post(server, {"prompt": "the cat", "max_tokens": 1}, **sent)
    assert answer.status_code == 403
    error = read_error(answer)
    assert error["code"] == "unknown_origin"
    assert error["message"].startswith(f"the request is of a page of {origin!r}, which is not")


@pytest.mark.parametrize(
    "origin", ["http://127.0.0.1:8000", "http://localhost:3000", "https://chat.x.lan",
               "chrome-extension://abc", "file://"],
)  # fmt: skip
def test_the_servers_own_pages_and_programs_can(make_server, origin):
    named = make_server(hosts=(*OWN_NAMES, "*.x.lan"))
    body = {"prompt": "the cat", "max_tokens": 1}
    assert post(named, body, Origin=origin).status_code == 200


def ask_raw(server, data):
    """The head and the body of an answer to bytes, until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as raw:
        raw.sendall(data)
        said = b""
        while part := raw.recv(1 << 16):
            said += part
    head, _, body = said.partition(b"\r\n\r\n")
    return head.lower(), body


def test_http_1_0_is_answered_without_a_host_and_streamed_without_chunks(server):
    head, body = ask_raw(server, b"GET /health HTTP/1.0\r\n\r\n")
    assert head.startswith(b"http/1.1 200")
    assert json.loads(body)["status"] == "ok"
    asked = json.dumps({"prompt": "the cat", "max_tokens": 3, "stream": True}).encode()
    length = f"POST /v1/completions HTTP/1.0\r\nContent-Length: {len(asked)}\r\n\r\n".encode()
    head, body = ask_raw(server, length + asked)
    assert b"chunked" not in head
    assert body.startswith(b"data: {")
    assert body.endswith(b"data: [DONE]\n\n")


def test_the_protocol_is_the_one_that_tests_have_seen():
    # Not httptools', wherever it is installed: it sends chunks to HTTP/1.0, too.
    assert issubclass(HTTPProtocol, H11Protocol)


@pytest.mark.parametrize("coding", ["gzip", "br", "gzip, identity", "x" * 99])
def test_a_body_that_is_coded_is_refused_by_the_name_of_its_code(server, coding):
    body = gzip.compress(json.dumps({"prompt": "the cat"}).encode())
    answer = post(server, body, **{"Content-Encoding": coding})
    assert answer.status_code == 415
    assert read_error(answer)["message"].startswith(f"the body is coded as {coding[:50]!r}"[:60])
    plain = post(server, {"prompt": "a", "max_tokens": 1}, **{"Content-Encoding": "Identity"})
    assert plain.status_code == 200


def test_the_list_of_models_may_end_in_a_slash(server):
    assert httpx.get(f"{server.address}/v1/models/", timeout=PATIENCE).json()["object"] == "list"


def test_what_ends_an_answer_is_found_once_and_not_by_the_loop(make_server, monkeypatch):
    """It renders the template, for which the renderings of others may have to be waited for."""
    server, threads = make_server(), []
    encode = ChatEncoder._encode

    def look(*arguments, **more):
        threads.append(threading.current_thread())
        return encode(*arguments, **more)

    monkeypatch.setattr(ChatEncoder, "_encode", look)
    body = {"messages": [{"role": "user", "content": "the cat"}], "max_tokens": 1}
    for _ in range(3):
        assert post(server, body, "/v1/chat/completions").status_code == 200
    assert len(threads) == 1
    assert threads[0] is not server.thread


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_other_methods_are_refused_in_the_form(server, method, path):
    answer = httpx.request(method, server.address + path, timeout=PATIENCE)
    assert answer.status_code == 405
    read_error(answer)


@pytest.mark.parametrize("path", ["/v2", "/v1", "/v1/embeddings", "/page.css/x", "/v1/models/no"])
def test_other_paths_are_refused_in_the_form(server, path):
    answer = httpx.get(server.address + path, timeout=PATIENCE)
    assert answer.status_code == 404
    read_error(answer)


@pytest.mark.parametrize("data", [b"\x00" * 300, b"GET\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n"])
def test_what_is_no_http_is_refused_in_the_form(server, data):
    head, body = ask_raw(server, data)
    assert head.startswith(b"http/1.1 400 bad request")
    assert b"application/json" in head
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("streams", [False, True])
def test_a_backend_that_fails_is_the_servers_fault_and_the_next_text_is_made(
    server, monkeypatch, streams
):
    advance = RowDecoder.advance
    calls = iter(range(99))

    def fail(self, rows, tokens, counts):
        if next(calls) == 2:
            raise RuntimeError("the device is gone")
        return advance(self, rows, tokens, counts)

    client = openai.OpenAI(base_url=f"{server.address}/v1", api_key="x", max_retries=0)
    monkeypatch.setattr(RowDecoder, "advance", fail)
    reasons = []
    # min_tokens: a sampled EOS must not end the text before the third step
    asked = {"model": "little", "prompt": "the cat", "extra_body": {"min_tokens": 9}}

    def ask():
        for event in client.completions.create(**asked, stream=streams):
            reasons.append(event.choices[0].finish_reason)

    with pytest.raises(openai.APIError) as caught:
        ask()
    assert set(reasons) <= {None}
    error = caught.value
    assert (error.body["type"], error.body["message"]) == (
        "server_error", "decoding: the device is gone"
    )  # fmt: skip
    assert streams or error.status_code == 500
    assert client.completions.create(**asked).choices[0].text


@pytest.mark.parametrize("streams", [False, True])
def test_a_fault_of_the_server_itself_is_said_counted_and_survived(
    make_server, monkeypatch, streams
):
    server = make_server()
    plain = server.model.stream

    async def stream(request):
        async for piece in plain(request):
            yield piece
            if piece.text:  # one without text sends nothing, and would get a status
                raise ZeroDivisionError

    monkeypatch.setattr(server.model, "stream", stream)
    with httpx.stream("POST", f"{server.address}/v1/completions", timeout=PATIENCE,
                      json={**LONG, "stream": streams}) as answer:  # fmt: skip
        said = ""
        try:
            for text in answer.iter_text():
                said += text
        except httpx.RemoteProtocolError:
            assert streams
    error = json.loads(said.splitlines()[-2].removeprefix("data: ") if streams else said)["error"]
    assert error["message"] == "ZeroDivisionError in the server; its log says more"
    assert error["type"] == "server_error"
    assert answer.status_code == (200 if streams else 500)
    monkeypatch.undo()
    assert post(server, {"prompt": "the cat", "max_tokens": 2}).status_code == 200
    counts = httpx.get(f"{server.address}/metrics", timeout=PATIENCE).text
    assert streams or 'hermes_requests_total{path="/v1/completions",status="500"} 1.0' in counts


def test_a_text_that_the_end_overtakes_is_told_so(make_server):
    """Not a text that looks whole: the engine is closed before it is done."""
    server, found = make_server(), []
    hold_steps(server.model.engine, 5, lambda: server.model.served._ends)
    asking = threading.Thread(target=lambda: found.append(post(server, LONG)))
    asking.start()
    wait_until(lambda: server.model.engine.num_running == 1)
    server.model.served.close()
    asking.join(PATIENCE)
    for answer in (*found, post(server, LONG)):
        assert answer.status_code == 503
        assert read_error(answer)["message"] == "the server is ending; ask again once it runs"
