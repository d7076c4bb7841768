"""Texts and conversations that outgrow the context of a server that slides."""

import json

import httpx
import pytest

from hermes.errors import HermesError
from hermes.inference.decoding import generate_tokens
from hermes.inference.sampling import GREEDY
from tests.serving.test_requests import post
from tests.waiting import PATIENCE

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module", params=["torch", "mlx"])
def sliding(request, make_server):
    return make_server(backend=request.param, context_overflow="slide")


def find_text(server, prompt, count):
    """What `hermes generate --context-overflow slide` writes, where nothing ends the text."""
    model, tokenizer = server.model.engine.model, server.model.tokenizer
    ids = generate_tokens(
        model,
        tokenizer.encode_prompt(prompt),
        max_tokens=count,
        sampling=GREEDY,
        vocab_size=tokenizer.vocab_size,
        context_overflow="slide",
    )
    return tokenizer.decode(list(ids), continued=True)


@pytest.mark.parametrize("words", [5, 200])  # 200: more than the context by itself
def test_a_text_goes_on_beyond_the_context_as_generate_writes_it(sliding, words):
    ends = {str(token): -1000 for token in sliding.model.tokenizer.stop_ids}
    prompt = "the cat sat on " * (words // 4)
    body = {"prompt": prompt, "max_tokens": 180, "temperature": 0, "logit_bias": ends}
    answer = post(sliding, body).json()
    assert answer["usage"]["completion_tokens"] == 180 > sliding.model.engine.capacity
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["text"] == find_text(sliding, prompt, 180)
    stopped = post(sliding, {**body, "context_overflow": "stop"})
    if words == 200:
        assert stopped.json()["error"]["code"] == "context_length_exceeded"
    else:
        assert stopped.json()["usage"]["completion_tokens"] < 128


def test_a_request_may_slide_where_the_server_stops(server):
    ends = {str(token): -1000 for token in server.model.tokenizer.stop_ids}
    body = {"prompt": "the cat", "max_tokens": 150, "logit_bias": ends}
    assert post(server, body).json()["usage"]["completion_tokens"] < 128
    slid = post(server, {**body, "context_overflow": "slide"}).json()
    assert slid["usage"]["completion_tokens"] == 150
    refused = post(server, {**body, "context_overflow": "roll"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "context_overflow"


def test_the_oldest_turns_of_a_conversation_are_left_out_and_this_is_said(sliding):
    turns = [{"role": role, "content": "the cat sat"} for _ in range(20) for role in ("user",
             "assistant")]  # fmt: skip
    body = {"messages": [{"role": "system", "content": "Be brief."}, *turns,
            {"role": "user", "content": "and then"}], "max_tokens": 8, "seed": 3}  # fmt: skip
    answer = post(sliding, body, CHAT).json()
    dropped = answer["dropped_messages"]
    assert dropped > 0
    assert dropped % 2 == 0
    shorter = {**body, "messages": [body["messages"][0], *body["messages"][1 + dropped :]]}
    same = post(sliding, shorter, CHAT).json()
    assert same["choices"] == answer["choices"]
    assert same["usage"] == answer["usage"]
    assert "dropped_messages" not in same
    lines = post(sliding, {**body, "stream": True}, CHAT).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert [event.get("dropped_messages") for event in events[:2]] == [dropped, None]
    said = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    assert said == answer["choices"][0]["message"]["content"]


def test_a_last_message_beyond_the_context_is_refused_with_its_code(sliding):
    messages = [{"role": "user", "content": "the cat sat on a mat " * 40}]
    answer = post(sliding, {"messages": messages}, CHAT)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "more than the 128 of the context; shorten it" in error["message"]
    assert httpx.get(f"{sliding.address}/health", timeout=PATIENCE).status_code == 200


def test_another_way_to_overflow_is_refused(make_server):
    with pytest.raises(HermesError, match="context_overflow is 'roll'; it must be one of stop, "):
        make_server(context_overflow="roll")
