"""Texts that follow a grammar: whatever the model would say, on both backends."""

import json
import subprocess
import sys

import numpy as np
import pytest

import hermes
from hermes.errors import DataError, HermesError
from hermes.inference.batch_generation import run_requests
from hermes.inference.engine import Engine
from hermes.inference.grammar import compile_json_schema, compile_lark, read_json_schema
from hermes.inference.sampling import Sampling
from tests.training.support import SPEC, Runs, corpus_in

SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["cat", "mat"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "words": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2},
        "next": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
    },
    "required": ["kind", "count", "words", "next"],
    "additionalProperties": False,
}
WILD = Sampling(temperature=2.0)


def check(value):
    """Whether it is of the schema, written out: no validator shares code with what is tested."""
    assert list(value) == ["kind", "count", "words", "next"]
    assert value["kind"] in ("cat", "mat")
    assert type(value["count"]) is int
    assert 0 <= value["count"] <= 99
    assert len(value["words"]) <= 2
    assert all(type(word) is str and len(word) <= 4 for word in value["words"])
    assert value["next"] in (None, True, False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grammar")
    spec = SPEC.replace("max_seq_len: 32", "max_seq_len: 512")
    return Runs(corpus_in(folder), folder)("model", max_steps=2, spec=spec).output


@pytest.fixture(scope="module")
def models(checkpoint):
    return [hermes.load(checkpoint, backend=backend) for backend in ("torch", "mlx")]


def test_a_random_model_writes_json_of_the_schema_on_both_backends(models):
    """Eight texts of a model that knows nothing, at a temperature that takes any token."""
    texts = []
    for model in models:
        requests = [
            model.make_request("the cat", max_tokens=500, sampling=WILD, seed=n, json_schema=SCHEMA)
            for n in range(8)
        ]
        done = run_requests(model.make_engine(rows=5), requests)
        texts.append([(one.text, one.finish_reason) for one in done])
        for one in done:
            assert one.finish_reason == "stop"
            check(json.loads(one.text))
    assert texts[0] == texts[1]
    assert len({text for text, _ in texts[0]}) == 8


def test_one_text_by_itself_is_that_of_the_engine(models):
    model = models[0]
    alone = model.complete("it", max_tokens=500, sampling=WILD, seed=3, json_schema=SCHEMA)
    request = model.make_request("it", max_tokens=500, sampling=WILD, seed=3, json_schema=SCHEMA)
    (shared,) = run_requests(model.make_engine(rows=2), [request])
    assert (alone.text, alone.finish_reason) == (shared.text, shared.finish_reason)


@pytest.mark.parametrize("seed", range(4))
def test_any_json_object_parses_or_is_cut_off_by_max_tokens(models, seed):
    model, schema = models[0], {"type": "object"}
    text = model.complete("a", max_tokens=150, sampling=WILD, seed=seed, json_schema=schema)
    if text.finish_reason == "stop":
        assert isinstance(json.loads(text.text), dict)
    else:
        matcher = compile_json_schema(model.tokenizer, schema).start()
        for token in model.tokenizer.encode(text.text):  # each of which may come
            matcher.append(token)


def test_what_ends_a_text_may_come_where_it_is_whole(models):
    """A number may go on, so its end is the model's; other endings than the tokenizer's count."""
    tokenizer = models[0].tokenizer
    matcher = compile_json_schema(tokenizer, {"type": "integer"}).start()
    ending = tokenizer.encode("q")[0]

    def list_allowed():
        x = np.zeros(tokenizer.vocab_size + 6)  # rows that the tokenizer does not know
        matcher.mask(x, [ending, *tokenizer.stop_ids])
        return set(np.flatnonzero(np.isfinite(x)).tolist())

    digits = {tokenizer.encode(str(n))[0] for n in range(10)}
    assert list_allowed() == digits | set(tokenizer.encode("-"))
    matcher.append(tokenizer.encode("7")[0])
    assert list_allowed() == digits | {ending, *tokenizer.stop_ids}
    assert not matcher.is_complete


def test_greedy_text_takes_the_best_of_what_may_come(models):
    """By hand: the greatest logit among the grammar's tokens, one after another."""
    model, schema = models[0], {"enum": [{"a": "cat"}, {"a": "mat"}, {"b": [1, 2]}]}
    grammar = compile_json_schema(model.tokenizer, schema)
    matcher, ids, made = grammar.start(), model.encode("the mat"), []
    while not matcher.is_complete:
        x = model.logits([ids + made])[0, -1].astype(float)[: model.tokenizer.vocab_size]
        matcher.mask(x, ())
        made.append(int(x.argmax()))
        matcher.append(made[-1])
    expected = model.tokenizer.decode(made, continued=True)
    greedy = Sampling(temperature=0)
    found = model.complete("the mat", max_tokens=500, sampling=greedy, json_schema=schema)
    assert found.text == expected
    assert json.loads(expected) in schema["enum"]


def test_a_ban_of_all_that_may_come_is_an_error_of_that_text(models):
    model = models[0]
    banned = tuple((token,) for token, spelt in model.tokenizer.iterate_token_bytes()
                   if b"{" in spelt)  # fmt: skip
    request = model.make_request("a", sampling=Sampling(banned=banned), json_schema=SCHEMA)
    engine = Engine(model.backend_model, tokenizer=model.tokenizer, rows=2)
    done = run_requests(engine, [request, model.make_request("a", max_tokens=3)])
    assert "no token may come next" in str(done[0].error)
    assert done[1].error is None


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "thing"}, "Invalid type: thing"),
        ({"type": "array", "uniqueItems": True}, "Unimplemented keys"),
        ({"$ref": "http://localhost/x"}, "http://localhost/x"),
        ({"type": "string", "pattern": "("}, "regex parse error"),
        ([1], r"a JSON schema is an object, got \[1\]"),
        ({"type": {1, 2}}, "is no JSON"),
    ],
)
def test_a_schema_that_cannot_be_promised_is_refused(models, schema, why):
    with pytest.raises(DataError, match=why):
        compile_json_schema(models[0].tokenizer, schema)


def test_a_grammar_that_is_none_is_refused(models):
    with pytest.raises(DataError, match="the grammar cannot be followed"):
        compile_lark(models[0].tokenizer, "start: missing")


@pytest.mark.parametrize("text", ['{"type": "object"}', ' {"type": "object"', '["a"]'])
def test_a_text_in_place_of_the_file_of_a_schema_is_told_as_one(text):
    with pytest.raises(DataError) as refused:
        read_json_schema(text)
    assert str(refused.value) == (
        f"{text!r} is the text of a JSON schema, not a file's name; write it to a file and give "
        "that, or in Python give the schema as a dict"
    )


def test_a_file_that_is_no_schema_is_refused_by_name(tmp_path, checkpoint):
    (tmp_path / "no.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"no\.json: not a JSON schema"):
        read_json_schema(tmp_path / "no.json")
    with pytest.raises(HermesError, match="json_schema is not for num_beams"):
        hermes.generate(checkpoint, "a", json_schema=SCHEMA, num_beams=2, backend="torch")


def test_the_command_writes_what_the_library_does(checkpoint, tmp_path):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA), encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "hermes", "generate", "-c", checkpoint, "-p", "the", "--json",
         "--json-schema", path, "--max-tokens", "500", "--seed", "4", "--temperature", "1.5",
         "--backend", "torch"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (text,) = hermes.generate(
        checkpoint, "the", json_schema=path, max_tokens=500, seed=4, temperature=1.5,
        backend="torch",
    )  # fmt: skip
    assert json.loads(ran.stdout) == text.to_json()
    check(json.loads(text.text))
