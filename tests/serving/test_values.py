"""No value of any field is the server's fault: each is taken, or refused in the API's form."""

import http.client
import json
import re
from pathlib import Path

import pytest

import hermes.serving
from hermes.inference.batch_generation import run_requests
from hermes.inference.engine import Engine
from hermes.inference.request import Request
from hermes.inference.sampling_options import make_sampling
from hermes.serving.body import HARMLESS
from hermes.serving.sampling_fields import MORE_COUNTS, MORE_NUMBERS, MORE_TEXTS
from tests.serving.test_errors import read_error
from tests.serving.test_requests import post
from tests.waiting import PATIENCE

SOURCES = ("completions.py", "chat_completions.py", "answer_form.py", "sampling_fields.py")
CODE = "".join(
    (Path(hermes.serving.__file__).parent / name).read_text(encoding="utf-8") for name in SOURCES
)
FIELDS = sorted(
    {*re.findall(r'body\.take\w*\(\s*"(\w+)"', CODE), *MORE_NUMBERS, *MORE_COUNTS, *MORE_TEXTS}
    | {*HARMLESS, "colour"}
)
HUGE = "1" + "0" * 400
VALUES = (
    *("true", "-1", "1e400", "NaN", "1e308", HUGE, '"\\ud800"', '"' + "x" * 9999 + '"'),
    *("[]", "[null]", '{"5": ' + HUGE + "}", '{"-1": 1}', "[" * 900 + "]" * 900),
    '{"type": "json_schema", "json_schema": {"schema": {"multipleOf": ' + HUGE + "}}}",
    '[{"function": {"name": "f", "parameters": {"type": "object", "properties": 5}}}]',
)
BASES = {
    "/v1/completions": '"prompt": "the cat", "max_tokens": 2',
    "/v1/chat/completions": '"messages": [{"role": "user", "content": "the cat"}], "max_tokens": 2',
}


def test_all_fields_are_found():
    assert {"prompt", "messages", "temperature", "min_p", "tools", "user", "n"} <= {*FIELDS}
    assert len(FIELDS) > 40


@pytest.mark.parametrize("path", BASES)
def test_every_value_of_every_field_is_taken_or_refused(server, path):
    faults, statuses = [], set()
    for field in FIELDS:
        for value in VALUES:
            # Its own connection: the server closes one that a test lets rest for five seconds.
            client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
            client.request("POST", path, f'{{{BASES[path]}, "{field}": {value}}}'.encode())
            answer = client.getresponse()
            said, status = answer.read(), answer.status
            client.close()
            statuses.add(status)
            if status >= 500 or b"server_error" in said:
                faults.append((field, value[:60], said[:200]))
            elif status >= 400:
                (error,) = json.loads(said).values()
                assert set(error) == {"message", "type", "param", "code"}
                assert 0 < len(error["message"]) < 1000
    assert faults == []
    assert statuses == {200, 400, 404}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"prompt": "\\ud800"}', r"the body has a text that is half of a surrogate pair, \ud800"),
        (b'{"\\ud800": 1}', r"the body has a text that is half of a surrogate pair, \ud800"),
        (b'{"prompt": "\xed\xa0\x80"}', "the body is not JSON: 'utf-8' codec can't decode"),
        ('{"prompt": "a"}'.encode("utf-16"), "the body is not JSON: 'utf-8' codec can't decode"),
        (b'{"prompt": "a", "temperature": 1%s}' % (b"0" * 400), "temperature must be a number"),
        (b'{"prompt": "a", "logit_bias": {"5": 1%s}}' % (b"0" * 400), "logit_bias must give"),
        (b'{"prompt": "a", "logit_bias": {"5": true}}', "logit_bias must give numbers to ids"),
        (b'{"%s": 1}' % (b"a" * 9999), f"{'a' * 57}... is not known to this server"),
    ],
)
def test_what_no_text_and_no_number_is_is_refused_by_name(server, body, why):
    answer = post(server, body)
    assert answer.status_code == 400
    assert why in read_error(answer)["message"]


def test_escapes_of_whole_pairs_and_a_byte_order_mark_are_read(server):
    plain = post(server, {"prompt": "the \U0001f600 cat", "max_tokens": 3, "temperature": 0})
    body = b'\xef\xbb\xbf{"prompt": "the \\ud83d\\ude00 cat", "max_tokens": 3, "temperature": 0}'
    answer = post(server, body)
    assert answer.status_code == 200
    assert answer.json()["choices"] == plain.json()["choices"]


def test_top_p_of_0_is_the_most_probable_token_alone(server):
    asked = {"prompt": "the cat", "max_tokens": 6, "seed": 5}
    greedy = post(server, {**asked, "temperature": 0}).json()
    assert (
        post(server, {**asked, "temperature": 2, "top_p": 0}).json()["choices"]
        == (greedy["choices"])
    )


def test_banned_words_and_breakers_are_taken_as_generate_takes_them(server, base):
    (letter,) = base.tokenizer.encode("c")
    asked = {"prompt": "the cat", "max_tokens": 4, "temperature": 0, "logit_bias": {letter: 100}}
    assert post(server, asked).json()["choices"][0]["text"] == "cccc"
    assert "c" not in post(server, {**asked, "ban": "c"}).json()["choices"][0]["text"]
    del asked["logit_bias"]
    sampling, _ = make_sampling(
        base.tokenizer, {}, {"temperature": 0.0, "dry_multiplier": 9.0, "dry_breaker": ["cat"]}
    )
    text = Request(tuple(base.tokenizer.encode("the cat")), 20, sampling)
    expected = run_requests(Engine(server.model.engine.model, tokenizer=base.tokenizer), [text])
    strong = {**asked, "max_tokens": 20, "dry_multiplier": 9, "dry_breaker": "cat"}
    assert post(server, strong).json()["choices"][0]["text"] == expected[0].text


def test_a_vocabulary_is_searched_for_breakers_once(server, monkeypatch):
    tokenizer, searches = server.model.tokenizer, []
    search = tokenizer.iterate_token_bytes
    monkeypatch.setattr(
        tokenizer, "iterate_token_bytes", lambda: [searches.append(1), *search()][1:]
    )
    for _ in range(3):
        body = {"prompt": "a", "max_tokens": 1, "dry_multiplier": 1, "dry_breaker": ["once", "!"]}
        assert post(server, body).status_code == 200
    assert len(searches) == 1
