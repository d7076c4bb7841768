"""Prepared tokens are the same bytes however they are made."""

import gc
import os

import numpy as np
import pytest

from hermes.data import read_documents, tokenize
from hermes.data.document_reader import TextFormat
from hermes.data.prepared import (
    Part,
    PreparationOptions,
    is_prepared,
    merge_parts,
    prepare_tokens,
    verify_prepared,
)
from hermes.data.prepared.documents import PreparedDocuments
from hermes.data.token_shards import TokenFile, TokenShards
from hermes.errors import DataError, HermesError
from hermes.tokenizer import Tokenizer, train_tokenizer
from tests.data.preparation import SMALL, list_bytes
from tests.data.support import TEXT


def test_the_tokens_are_those_of_tokenizing_all_at_once(data, prepared, tokenizer):
    stream = verify_prepared(prepared)
    with tokenize(read_documents(data), tokenizer) as whole:
        np.testing.assert_array_equal(stream.tokens[:], whole.tokens)
        for name in ("fingerprint", "documents", "text_bytes", "largest"):
            assert getattr(stream, name) == getattr(whole, name), name
    assert len(stream.tokens.files) > 5
    assert stream.sources == 7
    assert is_prepared(prepared)
    assert not is_prepared(data)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_bytes_do_not_depend_on_the_workers(data, prepared, tokenizer, tmp_path, workers):
    prepare_tokens(data, tokenizer, tmp_path / "other", options=SMALL, workers=workers)
    assert list_bytes(tmp_path / "other") == list_bytes(prepared)


@pytest.mark.parametrize("count", [2, 3, 20])
def test_the_bytes_do_not_depend_on_the_parts(data, prepared, tokenizer, tmp_path, count):
    other = tmp_path / "other"
    for index in range(count, 0, -1):
        with pytest.raises(DataError, match=r"is not done yet|no parts of a preparation in it"):
            merge_parts(other)
        done = prepare_tokens(data, tokenizer, other, options=SMALL, part=Part(index, count))
        assert not done.whole
    assert merge_parts(other).whole
    assert list_bytes(other) == list_bytes(prepared)
    assert merge_parts(other).notes == ("nothing is left to do",)


def test_bad_records_are_left_out_and_counted_over_all_files(write, tokenizer, tmp_path):
    write("bad/a.jsonl", '{"text": "one"}\n7\n' + '{"text": "two"}\n' * 300)
    write("bad/b.jsonl", '{"text": "three"}\nnot json\n')
    options = PreparationOptions(shard_size=2000, max_bad_records=0.1)
    done = prepare_tokens(tmp_path / "bad", tokenizer, tmp_path / "out", options=options)
    assert done.documents == 302
    assert done.notes[0] == "left out 2 bad records:"
    assert [note.rpartition("/")[2][:10] for note in done.notes[1:]] == ["a.jsonl:2:", "b.jsonl:2:"]
    with pytest.raises(
        DataError, match=r"a.jsonl:2: found 7 where a string or an object is needed"
    ):
        prepare_tokens(tmp_path / "bad", tokenizer, tmp_path / "strict")
    few = PreparationOptions(max_bad_records=0.001)
    with pytest.raises(DataError, match=r"^2 bad records among 304, more than 0.001 of them"):
        prepare_tokens(tmp_path / "bad", tokenizer, tmp_path / "few", options=few)


def test_a_document_is_found_with_its_source_and_line(data, prepared, tokenizer):
    documents = PreparedDocuments(prepared)
    found = list(read_documents(data))
    texts, places, more = [], [], False
    for piece in found:
        if more:
            texts[-1] += piece.text
        else:
            texts.append(piece.text)
            places.append(f"{piece.path}:{piece.line}")
        more = piece.more
    assert len(documents) == len(texts)
    for number in (0, 1, 17, 38, len(texts) - 6, len(texts) - 1):
        one = documents.read(number)
        assert one.where == places[number]
        assert tokenizer.decode(one.tokens) == texts[number]
        assert one.tokens[-1] == tokenizer.eos_id
    with pytest.raises(DataError, match=r"has documents 0 to 45; there is no 46$"):
        documents.read(46)


def test_a_tokenizer_without_an_end_of_text_and_no_files_are_refused(tmp_path, data, tokenizer):
    endless = train_tokenizer([TEXT], vocab_size=300, special_tokens=["<unk>"])
    with pytest.raises(DataError, match=r"^the tokenizer has no .* of its tokens with --eos"):
        prepare_tokens(data, endless, tmp_path / "out")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"the folder has no .* file in it"):
        prepare_tokens(tmp_path / "none", tokenizer, tmp_path / "out")


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3"])
def test_parts_are_i_of_n(text):
    with pytest.raises(DataError, match=r"expected I/N with I from 1 to N, as in 3/16$"):
        Part.parse(text)


def test_numbers_out_of_range_are_refused(data, tokenizer, tmp_path):
    with pytest.raises(DataError, match=r"^--shard-size must be at least 1, got 0$"):
        PreparationOptions(shard_size=0)
    with pytest.raises(HermesError, match=r"^--workers must be at least 1, got 0$"):
        prepare_tokens(data, tokenizer, tmp_path / "out", workers=0)


def test_a_worker_that_dies_is_named(data, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "hermes.data.encoding_pool.WORKER",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    )
    with pytest.raises(HermesError, match=r"^a process that encodes text ended with signal 9; mem"):
        prepare_tokens(data, tokenizer, tmp_path / "out", options=SMALL, workers=2)


def test_shards_are_indexed_like_one_array(tmp_path):
    whole = np.arange(1000, dtype="<u2")
    files = []
    for number, (start, stop) in enumerate([(0, 1), (1, 400), (400, 401), (401, 1000)]):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(b"\0" * 2 * number + whole[start:stop].tobytes())
        files.append(TokenFile(path, "<u2", stop - start, 2 * number))
    shards = TokenShards(files)
    assert len(shards) == 1000
    for key in (slice(None), slice(0, 5), slice(399, 402), slice(990, 2000), slice(7, 7),
                slice(9, 3), slice(None, None, 7), slice(-3, None)):  # fmt: skip
        np.testing.assert_array_equal(shards[key], whole[key])
    files[1].path.write_bytes(b"\0\0")
    with pytest.raises(DataError, match=r"1.bin: 2 bytes where its 399 tokens take 800; copy or"):
        TokenShards(files)[:]


@pytest.mark.parametrize(("limit", "held"), [(64, 8), (256, 32), (1024, 128), (1 << 20, 1024)])
def test_many_shards_are_read_within_a_limit_of_open_files(tmp_path, monkeypatch, limit, held):
    """A Mac's is 256, of which shards and their indexes took as many."""
    files = [TokenFile(tmp_path / f"{number}.bin", "<u2", 1) for number in range(200)]
    for number, file in enumerate(files):
        file.path.write_bytes(number.to_bytes(2, "little"))
    monkeypatch.setattr("resource.getrlimit", lambda kind: (limit, limit))
    gc.collect()  # of other tests
    before = len(os.listdir("/dev/fd"))
    shards = TokenShards(files)
    assert [int(shards[k : k + 1][0]) for k in range(200)] == list(range(200))
    assert len(os.listdir("/dev/fd")) - before == min(held, 200)
    del shards
    assert len(os.listdir("/dev/fd")) == before


def test_options_are_those_of_reading(data, tokenizer, tmp_path):
    options = PreparationOptions(TextFormat(documents="lines"))
    done = prepare_tokens(data / "c0.txt", tokenizer, tmp_path / "out", options=options)
    assert done.documents == 1
    assert Tokenizer.load(tmp_path / "out").fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("workers", [None, 2])
@pytest.mark.parametrize("kind", ["bos", "unigram", "characters"])
def test_every_tokenizer_gives_the_tokens_of_all_at_once(data, tmp_path, kind, workers):
    """With BOS before each text, and those that mark its beginning or cannot be cut anywhere."""
    made = {
        "bos": lambda: train_tokenizer([TEXT], vocab_size=300).replace_roles(bos=True),
        "unigram": lambda: train_tokenizer([TEXT], vocab_size=300, model_type="unigram"),
        "characters": lambda: train_tokenizer([TEXT], vocab_size=400, byte_fallback=True),
    }[kind]()
    prepare_tokens(data, made, tmp_path / "out", options=SMALL, workers=workers)
    with tokenize(read_documents(data), made) as whole:
        stream = verify_prepared(tmp_path / "out")
        np.testing.assert_array_equal(stream.tokens[:], whole.tokens)
        assert stream.fingerprint == whole.fingerprint
