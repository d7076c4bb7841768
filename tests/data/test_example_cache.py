"""Encoded examples are kept, read again, and never of something else."""

import threading
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from hermes.chat_templates.encoder import ChatEncoder
from hermes.chat_templates.example import Example
from hermes.chat_templates.template import Template
from hermes.data import example_cache, example_key
from hermes.data.conversations import parse_conversation
from hermes.data.example_cache import EncodedRecords, ExampleCache
from hermes.data.example_key import hash_records, make_example_key
from hermes.data.records import Record
from hermes.errors import HermesError
from hermes.tokenizer import CHAT_TEMPLATE, train_tokenizer
from tests.chat_templates.support import SPECIAL, A, U, chat_tokenizer
from tests.data.support import pair
from tests.waiting import PATIENCE

PLACES = ("a:1", "a:2")


def make_examples():
    ids = np.arange(5, dtype=np.int32)
    mask = ids > 2
    weights = np.array([0, 0, 0, 0.5, 2], np.float32)
    return EncodedRecords(
        [
            Example(ids, mask, "a:1"),
            Example(ids[:4], mask[:4], "a:1", 1, weights[:4]),
            Example(ids + 3, mask, "a:2", 0, weights),
        ],
        [0, 0, 1],
        Counter({"'id'": 2}),
        {"cut": 1},
    )


def same(one, other):
    assert (one.records, dict(one.unread), one.facts) == (
        other.records, dict(other.unread), other.facts
    )  # fmt: skip
    for a, b in zip(one.examples, other.examples, strict=True):
        assert (a.where, a.part) == (b.where, b.part)
        for x, y in ((a.ids, b.ids), (a.loss_mask, b.loss_mask), (a.weights, b.weights)):
            assert (x is None) == (y is None)
            if x is not None:
                np.testing.assert_array_equal(x, y)
                assert x.dtype == y.dtype


def refuse():
    raise AssertionError("encoded again")


def test_what_was_encoded_once_is_read(tmp_path):
    cache = ExampleCache(tmp_path)
    same(cache.open("k", 1, PLACES, make_examples), make_examples())
    same(cache.open("k", 1, PLACES, refuse), make_examples())
    with pytest.raises(AssertionError, match="encoded again"):
        cache.open("other", 1, PLACES, refuse)
    moved = cache.open("k", 1, ("b:1", "b:2"), refuse)
    assert [one.where for one in moved.examples] == ["b:1", "b:1", "b:2"]


@pytest.mark.parametrize("damage", [b"", b"PK", None])
def test_a_damaged_file_is_made_anew(damage, tmp_path):
    cache = ExampleCache(tmp_path)
    cache.open("k", 1, PLACES, make_examples)
    file = tmp_path / "k" / "examples.npz"
    whole = file.read_bytes()
    middle = len(whole) // 2
    torn = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    file.write_bytes(torn if damage is None else damage)
    same(cache.open("k", 1, PLACES, make_examples), make_examples())
    same(cache.open("k", 1, PLACES, refuse), make_examples())


def test_few_records_are_not_kept_unless_a_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ExampleCache().open("k", example_cache.CACHED_FROM - 1, PLACES, make_examples)
    assert not list(tmp_path.iterdir())
    ExampleCache().open(None, 10**9, PLACES, make_examples)
    assert not list(tmp_path.iterdir())
    ExampleCache().open("k", example_cache.CACHED_FROM, PLACES, make_examples)
    assert list(tmp_path.glob("hermes/tokens/k/examples.npz"))


def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    said = []
    found = ExampleCache(tell=said.append).open("k", 10**9, PLACES, make_examples)
    same(found, make_examples())
    assert said == [
        f"{tmp_path}/file/hermes/tokens cannot be written to or locked, so records are encoded at "
        "each start"
    ]


class Threads:
    """A process group of threads: rank 0 is the first of its machine."""

    def __init__(self, rank, texts, barrier):
        self.rank_info = SimpleNamespace(rank=rank, local_rank=rank, world_size=len(texts))
        self._texts, self._barrier = texts, barrier

    def all_gather_text(self, text):
        self._texts[self.rank_info.rank] = text
        self._barrier.wait(PATIENCE)
        found = list(self._texts)
        self._barrier.wait(PATIENCE)
        return found


def run_ranks(work, size=3):
    texts, barrier = [""] * size, threading.Barrier(size)
    results = [None] * size

    def run(rank):
        try:
            results[rank] = work(Threads(rank, texts, barrier))
        except HermesError as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    return results


def test_of_several_ranks_one_encodes_and_the_others_read(tmp_path):
    by_rank = []

    def work(group):
        def encode():
            by_rank.append(group.rank_info.rank)
            return make_examples()

        return ExampleCache(tmp_path).open("k", 1, PLACES, encode, group)

    for found in run_ranks(work):
        same(found, make_examples())
    assert by_rank == [0]


def test_what_one_rank_cannot_encode_all_refuse(tmp_path):
    def work(group):
        def encode():
            raise HermesError("a:2: no")

        return ExampleCache(tmp_path).open("k", 1, PLACES, encode, group)

    assert [str(error) for error in run_ranks(work)] == [
        "a:2: no", "rank 0: a:2: no", "rank 0: a:2: no"
    ]  # fmt: skip


def test_ranks_with_other_records_encode_their_own(tmp_path):
    """Such a run is refused later, with what differs."""

    def work(group):
        key = f"k{group.rank_info.rank}"
        return ExampleCache(tmp_path).open(key, 1, PLACES, make_examples, group)

    assert all(isinstance(found, EncodedRecords) for found in run_ranks(work, 2))


def conversation(value=None, **more):
    return parse_conversation(Record(value or {"messages": [U, A], **more}, "a:1"))


def key_of(source=CHAT_TEMPLATE, *, tokenizer=None, arguments=None, tokens=(), names=None, **more):
    made = tokenizer or chat_tokenizer()
    template = Template(source, names=names or {}, arguments=arguments)
    records, _ = hash_records(more.get("records", [conversation()]))
    return make_example_key(
        more.get("kind", "sft"), records, made, ChatEncoder(made, template, tokens),
        more.get("settings", {"whole": False}),
    )  # fmt: skip


THINKING = "{% if thinking is defined %}{{ thinking }}{% endif %}" + CHAT_TEMPLATE
OTHERS = {
    "the template": lambda: key_of(CHAT_TEMPLATE + " "),
    "its arguments": lambda: key_of(THINKING, arguments={"thinking": False}),
    "names of tokens": lambda: key_of(names={"bos_token": "<|bos|>"}),
    "tokens of messages": lambda: key_of(tokens=("<|bos|>",)),
    "the kind": lambda: key_of(kind="dpo"),
    "what is trained on": lambda: key_of(settings={"whole": True}),
    "the tokenizer": lambda: key_of(
        tokenizer=train_tokenizer(["other words"] * 9, vocab_size=290, special_tokens=SPECIAL)
    ),
    "beginning with BOS": lambda: key_of(tokenizer=chat_tokenizer().replace_roles(bos=True)),
    "another end of text": lambda: key_of(tokenizer=chat_tokenizer().replace_roles(eos="<|pad|>")),
    "another content": lambda: key_of(
        records=[conversation({"messages": [U, {**A, "content": "b"}]})]
    ),
    "a weight": lambda: key_of(records=[conversation(weight=2)]),
    "a turn's weight": lambda: key_of(
        records=[conversation({"messages": [U, A, U, {**A, "weight": 0}]})]
    ),
    "the same of weight 1": lambda: key_of(records=[conversation({"messages": [U, A, U, A]})]),
    "tools": lambda: key_of(records=[conversation(tools=[{"name": "f"}])]),
    "a field that nothing reads": lambda: key_of(records=[conversation(id=1)]),
    "an answer that is context": lambda: key_of(
        records=[conversation({"prompt": [U, A, U], "completion": [A]})]
    ),
    "twice": lambda: key_of(records=[conversation()] * 2),
    "text": lambda: key_of(records=[conversation("q")]),
    "pairs": lambda: key_of(records=[pair({"prompt": "q", "chosen": "a", "rejected": "b"})]),
    "pairs of another prompt": lambda: key_of(
        records=[pair({"prompt": "r", "chosen": "a", "rejected": "b"})]
    ),
}


def test_all_that_decides_examples_is_in_the_key(monkeypatch):
    found = {"as it is": key_of(), **{name: make() for name, make in OTHERS.items()}}
    found["the template without arguments"] = key_of(THINKING)
    monkeypatch.setattr(example_key, "FORMAT", example_key.FORMAT + 1)
    found["the format"] = key_of()
    monkeypatch.undo()
    monkeypatch.setattr(example_key, "_hash_code", lambda: "other")
    found["the code"] = key_of()
    twice = [names for names in found.values() if [*found.values()].count(names) > 1]
    assert not twice, found
    assert all(found.values())


def test_the_key_is_the_same_of_the_same_wherever_it_is():
    assert key_of() == key_of(records=[replace(conversation(), where="b:7")])


def test_a_template_that_writes_the_day_has_another_key_every_day(monkeypatch):
    source = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}"
    source += '{{ strftime_now("%-d") }}' + CHAT_TEMPLATE
    today = key_of(source)
    assert today == key_of(source)
    monkeypatch.setattr(time, "strftime", lambda form: "2031-01-01")
    assert key_of(source) not in (today, None)


@pytest.mark.parametrize("asked", ["'%H:%M'", "form", "'%c'", "'%-H'"])
def test_examples_of_the_time_of_day_are_not_kept(asked):
    assert key_of("{{ strftime_now(" + asked + ") }}" + CHAT_TEMPLATE) is None
