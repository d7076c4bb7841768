"""Damage to prepared tokens is found and named with its file."""

import json
import os
import random

import numpy as np
import pytest

from hermes.data.prepared import open_prepared, verify_prepared
from hermes.data.prepared.documents import open_index
from hermes.errors import DataError
from hermes.tokenizer import train_tokenizer


def test_damage_is_named_with_its_file(prepared):
    shard = max(prepared.glob("*.bin"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=rf"^{shard}: .* bytes where the manifest says"):
        open_prepared(prepared)
    shard.write_bytes(whole[:9] + bytes([whole[9] ^ 1]) + whole[10:])
    open_prepared(prepared)
    with pytest.raises(DataError, match=rf"^{shard}: its SHA-256 is \w+ and was \w+ when it was"):
        verify_prepared(prepared)
    shard.unlink()
    with pytest.raises(DataError, match=rf"^{shard}: the shard is missing; copy or prepare it"):
        open_prepared(prepared)
    shard.write_bytes(whole)
    index = max(prepared.glob("*.idx"))
    index.write_bytes(bytes(len(index.read_bytes())))
    with pytest.raises(DataError, match=rf"^{index}: its SHA-256 is"):
        verify_prepared(prepared)
    (prepared / "manifest.json").write_text('{"format": "hermes tokens", "version": 2}')
    with pytest.raises(DataError, match=r"not the manifest of prepared tokens \(its format is"):
        open_prepared(prepared)


def test_every_damaged_file_is_named(prepared, tmp_path, tokenizer):
    """A flipped bit, a shard cut short, a missing one, a flipped bit of an index: at once."""
    tokens, indexes = sorted(prepared.glob("*.bin")), sorted(prepared.glob("*.idx"))
    assert len(tokens) > 3
    flip(tokens[0])
    tokens[1].write_bytes(tokens[1].read_bytes()[:-2])
    tokens[2].unlink()
    flip(indexes[3])
    with pytest.raises(DataError) as damaged:
        verify_prepared(prepared)
    assert "\n" not in str(damaged.value)
    head, _, said = str(damaged.value).partition("; copy or prepare them again: ")
    assert head == f"{prepared}: 4 files are damaged"
    for path, what in (
        (tokens[0], "its SHA-256 is"),
        (tokens[1], "bytes where the manifest says"),
        (tokens[2], "the shard is missing"),
        (indexes[3], "its SHA-256 is"),
    ):
        assert f"{path.name}: " in said
        assert what in said[said.index(path.name) :].partition(" | ")[0]


@pytest.mark.parametrize("count", [6, pytest.param(1_000, marks=pytest.mark.long)])
def test_every_flipped_bit_and_every_cut_of_a_shard_is_found(prepared, count):
    draw = random.Random(0)
    files = [path for path in sorted(prepared.iterdir()) if path.suffix in (".bin", ".idx")]
    files = [path for path in files if path.stat().st_size]  # no document begins in some shards
    for path in draw.choices(files, k=count):
        whole = path.read_bytes()
        flip(path, draw.randrange(len(whole)), draw.randrange(8))
        with pytest.raises(DataError, match=rf"^{path}: its SHA-256 is"):
            verify_prepared(prepared)
        path.write_bytes(whole[: draw.randrange(len(whole))])
        with pytest.raises(DataError, match=rf"^{path}: .* bytes where the manifest says"):
            verify_prepared(prepared)
        path.unlink()
        with pytest.raises(DataError, match=rf"^{path}: the shard is missing"):
            verify_prepared(prepared)
        path.write_bytes(whole)
    verify_prepared(prepared)


def test_shards_that_change_places_and_one_that_grows_are_found(prepared):
    one, other, *_ = sorted(prepared.glob("*.bin"))
    whole, another = one.read_bytes(), other.read_bytes()
    one.write_bytes(another)
    other.write_bytes(whole)
    with pytest.raises(DataError, match="2 files are damaged; copy or prepare them again: "):
        verify_prepared(prepared)
    other.write_bytes(another)
    one.write_bytes(whole + whole[:2])
    with pytest.raises(DataError, match=rf"^{one}: .* bytes where the manifest says"):
        open_prepared(prepared)
    one.write_bytes(whole)
    verify_prepared(prepared)


def test_a_manifest_or_tokenizer_of_something_else_is_found(prepared, tmp_path):
    manifest = prepared / "manifest.json"
    facts = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(facts | {"documents": facts["documents"] + 1}))
    with pytest.raises(DataError, match=r"manifest\.json: it says .* documents, and its shards"):
        verify_prepared(prepared)
    manifest.write_text(json.dumps(facts))
    train_tokenizer(["other text " * 9], vocab_size=270).save(prepared / "tokenizer.json")
    with pytest.raises(DataError, match=r"tokenizer\.json: it has fingerprint"):
        verify_prepared(prepared)
    (prepared / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"tokenizer\.json: the tokenizer cannot be read"):
        verify_prepared(prepared)


def flip(path, at=9, bit=0):
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def test_a_shard_or_index_that_is_cut_while_it_is_read_is_named(prepared):
    stream, index = open_prepared(prepared), open_index(prepared)
    assert len(stream.read(0, len(stream))) == len(stream)
    assert index.read_lengths(0, len(index)).sum() == len(stream)
    for path, read in (
        (max(prepared.glob("*.bin")), lambda: stream.read(0, len(stream))),
        (max(prepared.glob("*.idx")), lambda: index.find_starts(np.arange(len(index)))),
    ):
        os.truncate(path, 1)
        with pytest.raises(DataError, match=rf"^{path} was cut short while it was being read; "):
            read()
