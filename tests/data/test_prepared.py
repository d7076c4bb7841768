"""Prepared tokens: the same bytes whatever the attempts, and damage is named."""

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from hermes.data import read_documents, tokenize
from hermes.data.document_reader import TextFormat
from hermes.data.prepared import (
    Part,
    PreparationOptions,
    is_prepared,
    merge_parts,
    open_prepared,
    prepare_tokens,
    verify_prepared,
)
from hermes.data.prepared.documents import PreparedDocuments
from hermes.data.token_shards import TokenFile, TokenShards
from hermes.errors import DataError, HermesError, StorageError
from hermes.storage.durable import Disk
from hermes.tokenizer import Tokenizer, train_tokenizer
from tests.data.support import TEXT
from tests.data.test_sources import write_parquet

SMALL = PreparationOptions(shard_size=2000)


def list_bytes(folder):
    """The hash of every file but the one that says when and how it was made."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != "provenance.json"
    }


@pytest.fixture
def data(write, tmp_path):
    """Files of several kinds: many documents, a long one, and small ones."""
    lines = [json.dumps({"text": f"{n} {TEXT[: 7 * n]}"}) for n in range(40)]
    write("data/a.jsonl", "\n".join(lines))
    write("data/b.txt", TEXT * 900)
    for n in range(5):
        write(f"data/c{n}.txt", f"the {n} cats\n")
    return tmp_path / "data"


@pytest.fixture
def prepared(data, tokenizer, tmp_path):
    """The data prepared in one go."""
    prepare_tokens(data, tokenizer, tmp_path / "whole", options=SMALL)
    return tmp_path / "whole"


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


class Stopped(Exception):
    """Stands for the end of the process."""


def test_an_attempt_that_stops_anywhere_is_resumed_to_the_same_bytes(
    data, prepared, tokenizer, tmp_path
):
    expected = list_bytes(prepared)
    operations = []
    prepare_tokens(
        data, tokenizer, tmp_path / "counted", options=SMALL, disk=Disk(operations.append)
    )
    last = len(operations) - 1  # syncs the manifest's name
    for stop in (*range(0, last, 5), last):
        folder, left = tmp_path / f"stopped-{stop}", iter(range(stop))

        def count(operation, left=left):
            if next(left, None) is None:
                raise Stopped

        with pytest.raises(Stopped):
            prepare_tokens(data, tokenizer, folder, options=SMALL, disk=Disk(count))
        assert (folder / "manifest.json").exists() == (stop == last)
        finished = {path: path.stat().st_mtime_ns for path in folder.glob("*-*.json")}
        prepare_tokens(data, tokenizer, folder, options=SMALL)
        assert list_bytes(folder) == expected, stop
        shards = [path.with_suffix(".bin") for path in finished if "group" not in path.name]
        for path in shards:  # a finished shard was not written again
            assert path.stat().st_mtime_ns <= finished[path.with_suffix(".json")]


KILLED = """
import sys
from pathlib import Path
from hermes.data.prepared import PreparationOptions, prepare_tokens
from hermes.tokenizer import Tokenizer
data, tokenizer, output = sys.argv[1:]
prepare_tokens(data, Tokenizer.load(tokenizer), output, options=PreparationOptions(shard_size=2000))
"""


def test_a_killed_process_is_resumed_to_the_same_bytes(data, prepared, tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    folder = tmp_path / "killed"
    arguments = [str(data), str(tmp_path / "tokenizer.json"), str(folder)]
    kills = 0
    for wanted in (1, 4, 9, 1000):
        process = subprocess.Popen([sys.executable, "-c", KILLED, *arguments])
        while process.poll() is None:
            if len(list(folder.glob("0*.json"))) >= wanted:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 1
    assert list_bytes(folder) == list_bytes(prepared)


def test_a_full_disk_loses_no_finished_shard(data, prepared, tokenizer, tmp_path):
    room = [6000]

    def fill(operation):
        room[0] -= len(operation.data)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = tmp_path / "full"
    with pytest.raises(StorageError, match=r"^cannot write .*: no space left on device$"):
        prepare_tokens(data, tokenizer, folder, options=SMALL, disk=Disk(fill))
    assert list(folder.glob("0*.json"))
    prepare_tokens(data, tokenizer, folder, options=SMALL)
    assert list_bytes(folder) == list_bytes(prepared)


def test_what_is_whole_is_not_made_again(data, prepared, tokenizer):
    before = list_bytes(prepared)
    done = prepare_tokens(data, tokenizer, prepared, options=SMALL)
    assert done.notes == ("nothing is left to do",)
    assert list_bytes(prepared) == before


def test_what_a_kill_left_behind_the_manifest_is_cleared_away(data, prepared, tokenizer):
    before = {path.name for path in prepared.iterdir()}
    for name in ("plan.json", "group-00000.json", "00000-00000.json", ".tmp-00000-00000-1f"):
        (prepared / name).write_text("{}")
    (prepared / "my-notes.json").write_text("{}")
    prepare_tokens(data, tokenizer, prepared, options=SMALL)
    assert {path.name for path in prepared.iterdir()} == before | {"my-notes.json"}


def test_other_text_of_the_same_size_is_noticed_when_whole(data, prepared, tokenizer, tmp_path):
    path = data / "b.txt"
    later = path.stat().st_mtime_ns + 10**11
    os.utime(path, ns=(later, later))  # touched, and not changed
    assert prepare_tokens(data, tokenizer, prepared, options=SMALL).notes == (
        "nothing is left to do",
    )
    path.write_text(path.read_text().replace("cat", "cow"))
    os.utime(path, ns=(later, later))
    with pytest.raises(DataError, match=rf"^{prepared} was prepared from {path} as it was before"):
        prepare_tokens(data, tokenizer, prepared, options=SMALL)


def test_what_cannot_be_compared_again_is_said(tokenizer, tmp_path):
    table, pipe = tmp_path / "a.parquet", tmp_path / "pipe.txt"
    write_parquet(table, [{"text": "cat"}, {"text": "dog"}])
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(TEXT.encode()))
    writer.start()
    prepare_tokens([table, pipe], tokenizer, tmp_path / "out")
    writer.join()
    later = table.stat().st_mtime_ns + 10**11
    os.utime(table, ns=(later, later))
    assert prepare_tokens([table, pipe], tokenizer, tmp_path / "out").notes == (
        f"{table} was written to since, and only its size was compared",
        f"{pipe} is not read again to be compared",
        "nothing is left to do",
    )


def test_a_folder_of_something_else_is_refused(data, prepared, tokenizer, tmp_path, write):
    with pytest.raises(DataError, match=r"^.* is not empty \(a.jsonl\) and no preparation was"):
        prepare_tokens(data, tokenizer, data)
    other = PreparationOptions(shard_size=3000)
    with pytest.raises(
        DataError,
        match=r"was begun with shard_size 2000, and not 3000; choose another --output, or delete",
    ):
        prepare_tokens(data, tokenizer, prepared, options=other)
    made = train_tokenizer([TEXT], vocab_size=280)
    with pytest.raises(DataError, match=r"was begun with another tokenizer; choose"):
        prepare_tokens(data, made, prepared, options=SMALL)
    (data / "b.txt").write_text(TEXT * 901)
    # Bad records may be left out from here on, so it is not that which is refused.
    for options in (SMALL, PreparationOptions(shard_size=2000, max_bad_records=0.1)):
        with pytest.raises(DataError, match=r"was begun with .*b.txt of .* bytes, and not .*b.txt"):
            prepare_tokens(data, tokenizer, prepared, options=options)


def test_a_preparation_stopped_by_a_bad_record_goes_on_without_it(tokenizer, tmp_path):
    records = [json.dumps({"text": TEXT * 20}) for _ in range(60)]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join([*records, '{"other": 1}', *records]))
    skipping = PreparationOptions(shard_size=2000, max_bad_records=0.1)
    with pytest.raises(DataError, match=r"data.jsonl:61: "):
        prepare_tokens(data, tokenizer, tmp_path / "out", options=SMALL)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.bin")}
    assert kept
    prepare_tokens(data, tokenizer, tmp_path / "out", options=skipping)
    prepare_tokens(data, tokenizer, tmp_path / "at-once", options=skipping)
    for path in (tmp_path / "at-once").iterdir():
        if path.name != "provenance.json":
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert (
        kept.items()
        <= {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.bin")}.items()
    )
    with pytest.raises(DataError, match=r"was begun with max_bad_records 0\.1, and not None"):
        prepare_tokens(data, tokenizer, tmp_path / "out", options=SMALL)


def test_other_text_of_the_same_size_is_noticed_when_resuming(data, tokenizer, tmp_path):
    folder = tmp_path / "begun"
    prepare_tokens(data, tokenizer, folder, options=SMALL, part=Part(2, 2))
    path = data / "b.txt"
    path.write_text(path.read_text().replace("cat", "cow"))
    for receipt in folder.glob("group-*.json"):
        receipt.unlink()
    with pytest.raises(DataError, match=r"was prepared from another text than the data has now"):
        prepare_tokens(data, tokenizer, folder, options=SMALL, part=Part(2, 2))


def test_a_source_that_changes_while_it_is_read_is_refused(data, tokenizer, tmp_path):
    def grow(progress):
        with open(data / "b.txt", "a") as file:
            file.write("more")

    with pytest.raises(
        DataError, match=r"b.txt: it changed while it was read \([\d,]+ bytes before, [\d,]+ now\)"
    ):
        prepare_tokens(data, tokenizer, tmp_path / "out", options=SMALL, watch=grow)


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


def test_every_flipped_bit_and_every_cut_of_a_shard_is_found(prepared):
    draw = random.Random(0)
    files = [path for path in sorted(prepared.iterdir()) if path.suffix in (".bin", ".idx")]
    for path in draw.sample(files, 6):
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
    with pytest.raises(DataError, match=r"^the tokenizer has no token that ends a text"):
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
                slice(9, 3), slice(None, None, 7), slice(-3, None),
                np.array([[0, 1, 999], [400, 401, 2]]), np.empty((0, 3), int)):  # fmt: skip
        np.testing.assert_array_equal(shards[key], whole[key])
    with pytest.raises(IndexError):
        shards[np.array([1000])]
    files[1].path.write_bytes(b"\0\0")
    with pytest.raises(DataError, match=r"1.bin: 2 bytes where its 399 tokens take 800; copy or"):
        TokenShards(files)[:]


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
