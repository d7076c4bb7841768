"""What the server does with clients that go away, ask too much, or send what is no request."""

import asyncio
import json
import socket

import httpx
import pytest
import torch

from hermes.errors import HermesError
from hermes.serving.run_server import bind
from hermes.serving.served_model import MOST_ENCODERS, Limits
from hermes_torch.row_decoder import RowDecoder
from tests.inference.support import hold_steps, is_cancelled
from tests.serving.conftest import serve_in_process
from tests.waiting import PATIENCE, wait_until

# min_tokens: a sampled EOS must not end the text before what is tested has happened
LONG = {"prompt": "the cat", "max_tokens": 100, "min_tokens": 100, "temperature": 1}
SHORTER = {**LONG, "max_tokens": 30, "min_tokens": 30}


def post(server, body, path="/v1/completions", **headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(server.address + path, content=data, headers=headers, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        (b"", 400, "the body is not JSON"),
        (b"{", 400, "the body is not JSON"),
        (b"[" * 100_000, 400, "the body is not JSON"),
        (b"\xff\xfe", 400, "the body is not JSON"),
        (b"[]", 400, "the body must be a JSON object"),
        (b"null", 400, "the body must be a JSON object"),
        ({"prompt": {"a": 1}}, 400, "prompt must be texts, or ids of tokens"),
        ({"prompt": []}, 400, "prompt is an empty list"),
        ({"prompt": "a", "stream_options": 1}, 400, "the body must be a JSON object"),
        ({"prompt": "a", "max_tokens": True}, 400, "max_tokens must be a whole number"),
        ({"prompt": "a", "temperature": "hot"}, 400, "temperature must be a number"),
        ({"prompt": ["a"] * 100, "n": 2}, 400, "more than the 128 of one request"),
    ],
)
def test_what_is_no_request_is_refused_in_the_apis_form(server, body, status, why):
    answer = post(server, body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert why in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "messages",
    [None, [], "hi", [1], [{"role": "user"}], [{"content": "x"}], [{"role": "user", "content": 3}],
     [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]],
)  # fmt: skip
def test_messages_that_are_none_are_refused(server, messages):
    answer = post(server, {"messages": messages}, "/v1/chat/completions")
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_a_body_beyond_the_limit_is_refused(make_server):
    server = make_server()
    server.model.limits = Limits(body=1000)
    assert post(server, {"prompt": "a" * 2000}).status_code == 413
    assert post(server, {"prompt": "a"}).status_code == 200


def test_paths_and_methods_that_are_none_are_refused(server):
    api = "the API is GET /v1/models, POST /v1/completions and POST /v1/chat/completions"
    for path, status, why in (
        ("/v1/responses", 404, "there is no such path"),
        ("/v1/completions", 405, "GET is not answered here"),
    ):
        answer = httpx.get(f"{server.address}{path}", timeout=PATIENCE)
        assert answer.status_code == status
        assert answer.json()["error"]["message"] == f"{path}: {why}; {api}"


def test_another_sites_name_is_refused(server):
    for name, status in (("example.org", 400), ("localhost", 200), ("127.0.0.1:9", 200)):
        answer = httpx.get(f"{server.address}/v1/models", headers={"Host": name}, timeout=PATIENCE)
        assert answer.status_code == status


@pytest.mark.parametrize("sent", ["Bearer secret", "bearer  secret", "secret"])
def test_a_key_is_taken_in_any_spelling_of_its_scheme(make_server, sent):
    server = make_server(api_key="secret")
    for header, status in ((sent, 200), (f"{sent}s", 401), ("Basic secret", 401)):
        headers = {"Authorization": header}
        answer = httpx.get(f"{server.address}/v1/models", headers=headers, timeout=PATIENCE)
        assert answer.status_code == status


def test_the_api_needs_the_key_and_health_does_not(make_server):
    server = make_server(api_key="secret")
    assert post(server, {"prompt": "a"}).status_code == 401
    for wrong in ("Bearer other", "secret-", "Basic secret"):
        assert post(server, {"prompt": "a"}, Authorization=wrong).status_code == 401
    assert post(server, {"prompt": "a"}, Authorization="Bearer secret").status_code == 200
    assert httpx.get(f"{server.address}/v1/models", timeout=PATIENCE).status_code == 401
    assert httpx.get(f"{server.address}/health", timeout=PATIENCE).json()["status"] == "ok"


def test_a_client_that_goes_away_frees_its_row(make_server):
    server = make_server(rows=1)
    engine = server.model.engine
    plain = engine.step
    for streams in (True, False):
        engine.step = plain
        hold_steps(engine, 50, lambda: is_cancelled(engine))  # the whole text takes 100
        body = json.dumps({**LONG, "stream": streams}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
                + str(len(body)).encode() + b"\r\n\r\n" + body
            )  # fmt: skip
            wait_until(lambda: engine.num_running == 1)
        wait_until(lambda: engine.num_running == 0)


def test_a_full_queue_is_said_with_429(make_server):
    server, refused = make_server(rows=1, max_queue=1), []
    hold_steps(server.model.engine, 0, lambda: refused)

    async def ask(client):
        answer = await client.post(f"{server.address}/v1/completions", json=SHORTER)
        if answer.status_code == 429:
            refused.append(answer)
        return answer

    async def ask_all():
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            return await asyncio.gather(*[ask(client) for _ in range(8)])

    answers = asyncio.run(ask_all())
    codes = {answer.status_code for answer in answers}
    assert codes == {200, 429}
    assert refused[0].headers["retry-after"] == "1"
    assert refused[0].json()["error"]["type"] == "rate_limit_error"


def test_a_text_that_takes_too_long_is_given_up(make_server):
    server = make_server(timeout=0.2)
    engine = server.model.engine
    hold_steps(engine, 5, lambda: is_cancelled(engine))
    answer = post(server, LONG)
    assert answer.status_code == 504
    assert answer.json()["error"]["message"].startswith("the text was not done after 0.2 s")
    wait_until(lambda: engine.num_running == 0)


def test_the_end_waits_for_answers_under_way(make_server):
    server = make_server()
    hold_steps(server.model.engine, 5, server.is_stopped)

    async def ask():
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            asked = asyncio.create_task(
                client.post(f"{server.address}/v1/completions", json=SHORTER)
            )
            while server.model.engine.num_running == 0:
                await asyncio.sleep(0.01)
            ended = await asyncio.to_thread(server.stop)
            return ended, await asked

    ended, answer = asyncio.run(ask())
    assert ended
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] > 0


def test_metrics_count_requests_and_tokens(make_server):
    server = make_server()
    post(server, {"prompt": "the cat", "max_tokens": 7, "temperature": 0})
    post(server, {"prompt": 3})
    text = httpx.get(f"{server.address}/metrics", timeout=PATIENCE).text
    numbers = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[:1] != "#")
    path = 'path="/v1/completions"'
    assert float(numbers[f'hermes_requests_total{{{path},status="200"}}']) == 1
    assert float(numbers[f'hermes_requests_total{{{path},status="400"}}']) == 1
    assert float(numbers["hermes_generated_tokens_total"]) == 7
    assert float(numbers["hermes_running_texts"]) == 0


def test_what_is_small_is_sent_at_once():
    """Not after the 40 ms for which the kernel waits for more, in every answer and every token."""

    async def read_option():
        asked = asyncio.get_running_loop().create_future()

        def look(reader, writer):
            own = writer.get_extra_info("socket")
            asked.set_result(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with bind("127.0.0.1", 0) as listening:
            async with await asyncio.start_server(look, sock=listening):
                _, writer = await asyncio.open_connection(*listening.getsockname())
                found = await asked
                writer.close()
        return found

    assert asyncio.run(read_option()) == 1


def test_a_server_for_other_machines_needs_a_key(checkpoint):
    import hermes

    with pytest.raises(HermesError, match=r"host 0\.0\.0\.0 lets other machines in; give"):
        hermes.serve(checkpoint, host="0.0.0.0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HermesError, match=f"cannot listen on 127.0.0.1 port {port}"):
            hermes.serve(checkpoint, port=port)


def test_a_text_ends_at_the_token_that_ends_texts(server):
    """Not at max_tokens: the token is made certain, and is no part of the text."""
    for path, body in (
        ("/v1/completions", {"prompt": "the cat"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "the cat"}]}),
    ):
        for token in server.model.tokenizer.stop_ids:
            answer = post(server, {**body, "max_tokens": 9, "logit_bias": {token: 1000}}, path)
            choice = answer.json()["choices"][0]
            assert choice["finish_reason"] == "stop"
            assert answer.json()["usage"]["completion_tokens"] == 0


def test_the_command_serves_until_a_signal_and_ends_well(checkpoint):
    command = ("hermes", "serve", "--checkpoint", checkpoint, "--backend", "torch")
    with serve_in_process(*command) as (_, address):
        body = {"prompt": "the cat", "max_tokens": 3}
        assert httpx.post(f"{address}/completions", json=body, timeout=PATIENCE).status_code == 200


def test_many_clients_get_what_each_would_get_alone(server):
    """None of them sees the others, whenever they come and go."""

    async def ask(client, number):
        body = {"prompt": ["the cat", "it ran", "a mat"][number % 3], "max_tokens": 3 + number % 9,
                "seed": number}  # fmt: skip
        answer = await client.post(f"{server.address}/v1/completions", json=body)
        assert answer.status_code == 200
        return answer.json()["choices"][0]["text"]

    async def ask_all(together):
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            if together:
                return await asyncio.gather(*[ask(client, n) for n in range(40)])
            return [await ask(client, n) for n in range(40)]

    assert asyncio.run(ask_all(True)) == asyncio.run(ask_all(False))


@pytest.mark.parametrize("streams", [True, False])
def test_a_conversation_beyond_the_context_is_refused_with_its_code(server, streams):
    messages = [{"role": "user", "content": "the cat sat on a mat " * 20}]
    body = {"messages": messages, "stream": streams}
    answer = post(server, body, "/v1/chat/completions")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("streams", [False, True])
def test_memory_that_runs_out_is_said_in_the_apis_form_and_the_server_lives(
    server, monkeypatch, streams
):
    advance, full = RowDecoder.advance, torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB.")

    def fail(self, rows, tokens, counts):
        if next(failures, False):
            raise full
        return advance(self, rows, tokens, counts)

    failures = iter([True])
    monkeypatch.setattr(RowDecoder, "advance", fail)
    answer = post(server, {"prompt": "the cat", "max_tokens": 4, "stream": streams})
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines()]
    said = json.loads([line for line in lines if line.startswith("{")][-1])
    # A stream may have begun with an event that no token is needed for.
    assert answer.status_code == 503 or streams
    assert (said["error"]["type"], said["error"]["code"]) == ("server_error", "out_of_memory")
    assert said["error"]["message"].startswith(
        "out of memory while decoding (CUDA out of memory. Tried 2 GiB.); ask for fewer tokens"
    )
    assert post(server, {"prompt": "the cat", "max_tokens": 4}).status_code == 200


def test_a_request_has_arguments_of_the_template(make_server, tmp_path):
    template = tmp_path / "styled.jinja"
    template.write_text(
        "{% if style is defined %}<|im_start|>system\n{{ style }}<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    server = make_server(template=template)
    user, system = ({"role": role, "content": "cat"} for role in ("user", "system"))

    def ask(*messages, **more):
        body = {"messages": messages, "max_tokens": 3, "temperature": 0, **more}
        return post(server, body, "/v1/chat/completions")

    plain, said = ask(user).json(), ask(system, user).json()
    for _ in range(2):
        styled = ask(user, chat_template_kwargs={"style": "cat"}).json()
        assert styled["choices"] == said["choices"]
        assert styled["usage"] == said["usage"] != plain["usage"]
    assert ask(user, chat_template_kwargs={}).json()["usage"] == plain["usage"]
    many = [ask(user, chat_template_kwargs={"style": "a" * k}) for k in range(12)]
    assert {one.status_code for one in many} == {200}
    assert len(server.model._encoders) == MOST_ENCODERS
    for wrong, why in [
        ({"heat": 1}, "reads no argument 'heat'; it reads style"),
        ([1], "chat_template_kwargs must be an object"),
    ]:
        answer = ask(user, chat_template_kwargs=wrong)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (why in error["message"], error["param"]) == (True, "chat_template_kwargs")


def test_a_template_that_ends_no_turn_is_refused_while_completions_are_served(
    make_server, tmp_path
):
    template = tmp_path / "endless.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    server = make_server(template=template)
    messages = [{"role": "user", "content": "the cat"}]
    for streams in (False, True):
        answer = post(server, {"messages": messages, "stream": streams}, "/v1/chat/completions")
        assert answer.status_code == 400
        why = "endless.jinja ends the assistant's turn with no special token"
        assert why in answer.json()["error"]["message"]
    assert post(server, {"prompt": "the cat", "max_tokens": 2}).status_code == 200
