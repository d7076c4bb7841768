"""Loading: text through the cache, prepared folders, and the token files of other tools."""

import hashlib
import os
import re
import struct
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from hermes.data import read_documents, token_space, tokenize
from hermes.data.loading import DataOptions, load_tokens, open_token_folder
from hermes.data.prepared import prepare_tokens
from hermes.errors import DataError, StorageError
from hermes.tokenizer import train_tokenizer
from tests.data.support import TEXT


@pytest.fixture
def options(tmp_path):
    return DataOptions(cache_dir=tmp_path / "cache")


def age(path):
    """Make a file look as if it had not changed for an hour."""
    past = path.stat().st_mtime_ns - 3600 * 10**9
    os.utime(path, ns=(past, past))


def count_shards(tmp_path):
    return {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache/*/tokens/*.bin")}


def test_text_is_tokenized_once(write, tmp_path, tokenizer, options):
    path = write("a.txt", TEXT)
    age(path)
    first = load_tokens(path, tokenizer, options)
    made = count_shards(tmp_path)
    assert len(made) == 1
    again = load_tokens(path, tokenizer, options)
    assert count_shards(tmp_path) == made
    with tokenize(read_documents(path), tokenizer) as whole:
        assert first.fingerprint == again.fingerprint == whole.fingerprint
        np.testing.assert_array_equal(again.tokens[:], whole.tokens)


def test_a_file_that_was_only_touched_or_copied_back_keeps_its_tokens(
    write, tmp_path, tokenizer, options
):
    path = write("a.txt", TEXT)
    age(path)
    load_tokens(path, tokenizer, options)
    made = count_shards(tmp_path)
    os.utime(path)
    load_tokens(path, tokenizer, options)
    assert count_shards(tmp_path) == made


def test_a_changed_file_is_tokenized_again(write, tmp_path, tokenizer, options):
    path = write("a.txt", TEXT)
    first = load_tokens(path, tokenizer, options).fingerprint
    # As large as before, and within the same tick of a coarse clock.
    when = path.stat().st_mtime_ns
    path.write_text(TEXT.replace("cat", "cow"), encoding="utf-8")
    os.utime(path, ns=(when, when))
    second = load_tokens(path, tokenizer, options)
    assert second.fingerprint != first
    with tokenize(read_documents(path), tokenizer) as whole:
        assert second.fingerprint == whole.fingerprint


def test_another_tokenizer_or_option_has_tokens_of_its_own(write, tmp_path, tokenizer, options):
    path = write("a.txt", TEXT)
    load_tokens(path, tokenizer, options)
    load_tokens(path, train_tokenizer([TEXT], vocab_size=280), options)
    load_tokens(write("b.txt", TEXT), tokenizer, options)
    assert len(count_shards(tmp_path)) == 3


def test_damaged_and_unfinished_tokens_are_made_again(write, tmp_path, tokenizer, options):
    path = write("a.txt", TEXT)
    age(path)
    whole = load_tokens(path, tokenizer, options).tokens[:].tolist()
    (shard,) = count_shards(tmp_path)
    shard.write_bytes(shard.read_bytes()[:-2])
    assert load_tokens(path, tokenizer, options).tokens[:].tolist() == whole
    (shard.parent / "manifest.json").unlink()
    assert load_tokens(path, tokenizer, options).tokens[:].tolist() == whole


def test_little_text_leaves_nothing_behind(write, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    with load_tokens(write("a.txt", TEXT), tokenizer, DataOptions()) as stream:
        assert (stream.sources, stream.documents) == (1, 1)
    assert not (tmp_path / "user").exists()
    monkeypatch.setattr("hermes.data.loading.CACHED_FROM", 10)
    load_tokens(tmp_path / "a.txt", tokenizer, DataOptions())
    assert list((tmp_path / "user" / "hermes" / "tokens").glob("*/tokens/manifest.json"))


def test_a_cache_that_cannot_be_written_is_said(write, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(write("file", "")))
    monkeypatch.setattr("hermes.data.loading.CACHED_FROM", 10)
    said = []
    with load_tokens(write("a.txt", TEXT), tokenizer, DataOptions(tell=said.append)) as stream:
        assert len(stream)
    assert said == [
        f"{tmp_path}/file/hermes/tokens cannot be written to or locked, so the text is tokenized "
        "at each start"
    ]


def test_a_prepared_folder_is_opened_as_it_is(write, tmp_path, tokenizer, options):
    prepare_tokens(write("a.txt", TEXT), tokenizer, tmp_path / "out")
    stream = load_tokens(tmp_path / "out", tokenizer, options)
    assert stream.folder == tmp_path / "out"
    assert not (tmp_path / "cache").exists()
    other = train_tokenizer([TEXT], vocab_size=280)
    with pytest.raises(DataError, match=rf"give --tokenizer {tmp_path}/out$"):
        load_tokens(tmp_path / "out", other, options)
    with pytest.raises(
        DataError, match=r"beside .*/a\.txt: give it alone, or .*/out:0\.5 --data .*/a\.txt:0\.5$"
    ):
        load_tokens([tmp_path / "out", tmp_path / "a.txt"], tokenizer, options)


def make_token_files(tmp_path, ids):
    """The same ids as other tools write them."""
    llmc = np.zeros(256, "<i4")
    llmc[:3] = 20240520, 1, len(ids)
    wide = llmc.copy()
    wide[:2] = 20240801, 7
    litgpt = b"LITPKDS" + struct.pack("<QBQ", 1, 8, len(ids))
    small = np.array(ids, "<u2").tobytes()
    files = {
        "nanogpt.bin": small,
        "llmc.bin": llmc.tobytes() + small,
        "llama3.bin": wide.tobytes() + np.array(ids, "<u4").tobytes(),
        "litgpt.bin": litgpt + small,
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return files


def test_token_files_of_other_tools_are_read_as_the_same_tokens(tmp_path, tokenizer, options):
    ids = [*tokenizer.encode(TEXT), 1, *tokenizer.encode("the cat"), 1]
    digest = hashlib.sha256(tokenizer.fingerprint.encode() + np.array(ids, "<u2").tobytes())
    for name in make_token_files(tmp_path, ids):
        stream = load_tokens(tmp_path / name, tokenizer, options)
        assert stream.tokens[:].tolist() == ids, name
        assert (stream.documents, stream.largest, stream.sources) == (2, max(ids), 1)
        assert stream.fingerprint == digest.hexdigest(), name
    both = load_tokens(f"{tmp_path}/l*.bin", tokenizer, options)
    assert both.tokens[:].tolist() == ids * 3


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.bin", b"", "empty, there is no token in it; leave it out or fill it"),
        ("a.bin", b"abc", "3 bytes are no whole number of ids; copy it again"),
        ("a.bin", np.array([5, 9999], "<u2").tobytes(),
         "token id 9999, outside the tokenizer's vocabulary of SIZE; give the tokenizer that made "
         "the file"),
        ("a.bin", struct.pack("<3i", 20240520, 9, 4) + bytes(1012) + b"\1\0" * 4,
         "version 9 of a token file; known is 1"),
        ("a.bin", struct.pack("<3i", 20240520, 1, 5) + bytes(1012) + b"\1\0" * 4,
         "4 tokens where its header says 5; copy it again"),
        ("a.bin", b"LITPKDS" + struct.pack("<QBQ", 1, 6, 4) + bytes(16),
         "litgpt's type 6 holds no ids; expected uint16 or int32"),
    ],
)  # fmt: skip
def test_damaged_token_files_are_named(write, tokenizer, options, name, content, expected):
    path = write(name, content)
    with pytest.raises(DataError) as error:
        load_tokens(path, tokenizer, options)
    assert str(error.value) == f"{path}: {expected}".replace("SIZE", str(tokenizer.vocab_size))


@pytest.mark.parametrize("width", [4, 8])
def test_bare_ids_that_are_wider_than_they_are_read_are_no_other_ids(
    write, tokenizer, options, width
):
    """Such are numpy's own, and uint32 beside a small vocabulary: each id, and zeros behind it."""
    ids = np.array(tokenizer.encode(TEXT), f"<u{width}")
    path = write("a.bin", ids.tobytes())
    with pytest.raises(DataError) as error:
        load_tokens(path, tokenizer, options)
    assert str(error.value) == (
        f"{path}: every second id is 0, so its ids seem to have {width} bytes, and with a "
        f"vocabulary of {tokenizer.vocab_size:,} they are read with 2; write them as uint16"
    )
    zeros = load_tokens(write("zeros.bin", bytes(1000)), tokenizer, options)
    assert zeros.largest == 0


def test_tokens_and_text_are_not_mixed(write, tokenizer, options):
    with pytest.raises(DataError, match=r"a.bin holds tokens and .*b.txt text; give one kind"):
        load_tokens([write("a.bin", b"\1\0"), write("b.txt", "x")], tokenizer, options)


def test_bad_records_of_little_text_are_counted_too(write, tokenizer):
    path = write("a.jsonl", '"a"\n7\n')
    with load_tokens(path, tokenizer, DataOptions(max_bad_records=1.0)) as stream:
        assert stream.notes[0] == "left out 1 bad record:"
    with pytest.raises(DataError, match=r"^1 bad record among 2, more than 0.1 of them"):
        load_tokens(path, tokenizer, DataOptions(max_bad_records=0.1))


def test_a_source_that_changes_while_it_is_tokenized_is_refused(write, tokenizer):
    path = write("a.txt", TEXT)

    def grow(progress):
        with open(path, "a") as file:
            file.write("more")

    with pytest.raises(
        DataError, match=r"a.txt: it changed while it was read \([\d,]+ bytes before"
    ):
        load_tokens(path, tokenizer, DataOptions(watch=grow))


@pytest.fixture
def free(monkeypatch):
    """The free bytes of every disk, as given."""
    return lambda count: monkeypatch.setattr(token_space, "count_free_bytes", lambda path: count)


@pytest.mark.parametrize("cached", [True, False])
def test_text_whose_tokens_do_not_fit_is_refused_before_it_is_tokenized(
    write, tmp_path, tokenizer, free, cached
):
    path, told, seen = write("a.txt", TEXT * 40), [], []
    cache = tmp_path / "cache" if cached else None
    options = DataOptions(cache_dir=cache, tell=told.append, watch=seen.append)
    with load_tokens(path, tokenizer, DataOptions()) as stream:
        needed = 2 * len(stream)
    free(needed * 8 // 10)
    with pytest.raises(StorageError) as refused:
        load_tokens(path, tokenizer, options)
    assert re.fullmatch(
        r"the tokens of \S+ kB of text need about \S+ kB, and /\S+ has \S+ kB free; make room, "
        r"choose another --cache-dir, or another TMPDIR, where a little text is tokenized",
        str(refused.value),
    )
    assert not told
    assert not seen
    load_tokens(path, tokenizer, replace(options, force=True)).close()
    assert told[0].startswith("the tokens of ")
    told.clear()
    free(needed * 12 // 10)
    load_tokens(path, tokenizer, replace(options, cache_dir=cache and tmp_path / "new")).close()
    assert not told


def test_tokens_that_the_cache_has_need_no_space(write, tokenizer, options, free):
    path = write("a.txt", TEXT * 40)
    load_tokens(path, tokenizer, options).close()
    free(0)
    load_tokens(path, tokenizer, options).close()


def test_of_records_whose_text_is_less_than_the_file_it_is_only_said(write, tokenizer, free):
    path, told = write("a.jsonl", '{"text": "some words", "more": "and others"}\n' * 99), []
    free(10)
    load_tokens(path, tokenizer, DataOptions(tell=told.append)).close()
    assert told[0].startswith("the tokens of ")


def test_another_process_opens_the_same_tokens(write, tmp_path, tokenizer, options):
    path = write("a.txt", TEXT)
    for given in (options, DataOptions()):
        with load_tokens(path, tokenizer, given) as stream:
            again = open_token_folder(stream.folder)
            assert again.fingerprint == stream.fingerprint
            assert again.tokens[:].tolist() == stream.tokens[:].tolist()


@pytest.fixture
def hub():
    """A file system that stands in for that of the Hub's datasets, by its protocol's name."""
    fsspec = pytest.importorskip("fsspec")
    from fsspec.implementations.memory import MemoryFileSystem

    class Hub(MemoryFileSystem):
        protocol = "hf"
        store: ClassVar[dict] = {}
        pseudo_dirs: ClassVar[list] = [""]
        opened: ClassVar[list] = []

        @classmethod
        def _strip_protocol(cls, path):
            return "/" + path.removeprefix("hf:").strip("/")

        def _open(self, path, *args, **options):
            self.opened.append(path)
            return super()._open(path, *args, **options)

    before = fsspec.registry.get("hf")
    fsspec.register_implementation("hf", Hub, clobber=True)
    yield Hub
    if before is not None:
        fsspec.register_implementation("hf", before, clobber=True)


def test_token_files_of_the_hub_are_copied_once(hub, tokenizer, options):
    ids = np.array([*tokenizer.encode(TEXT), tokenizer.eos_id], "<u2")
    address, told = "hf://datasets/owner/name/train.bin", []
    place = "/datasets/owner/name/train.bin"
    hub().pipe({place: ids.tobytes()})
    asked = replace(options, tell=told.append)
    hub.opened.clear()
    for _ in range(2):
        stream = load_tokens(address, tokenizer, asked)
        assert stream.tokens[:].tolist() == ids.tolist()
    assert hub.opened == [place]
    assert [line.partition(" is copied to")[0] for line in told] == [address]
    # Another file of that name is another copy; one that breaks off leaves none.
    hub().pipe({place: ids[:50].tobytes()})
    assert len(load_tokens("hf://datasets/owner/name/*.bin", tokenizer, asked)) == 50
    info = hub.info
    hub.info = lambda self, path: {**info(self, path), "size": 101}
    try:
        with pytest.raises(StorageError, match=r"train\.bin: it broke off after 100 of 101 bytes"):
            load_tokens(address, tokenizer, asked)
    finally:
        hub.info = info
    assert len([*options.cache_dir.rglob("*.bin"), *options.cache_dir.rglob(".tmp*")]) == 2
    with pytest.raises(DataError, match=r"^hf://datasets/owner/name/no\.bin: no such file; check"):
        load_tokens("hf://datasets/owner/name/no.bin", tokenizer, asked)
