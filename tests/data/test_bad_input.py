"""What bad input gets, the same whichever way it is read: a file, a place, a reason."""

import gzip
import os
import threading

import pytest

from hermes.data import files, read_documents
from hermes.data.bad_records import BadRecords
from hermes.data.document_dataset import DocumentDataset
from hermes.data.document_reader import TextFormat, read_file
from hermes.data.loading import DataOptions, load_tokens
from hermes.data.mixture import MixtureDataset
from hermes.data.order import Cursor
from hermes.data.prepared import Part, PreparationOptions, open_prepared, prepare_tokens
from hermes.data.prepared.documents import PreparedDocuments
from hermes.data.source_file import CountingFile
from hermes.data.text_dataset import TextDataset
from hermes.errors import DataError
from hermes.tokenizer import train_tokenizer
from tests.data.test_sources import write_parquet

TEXT = "the cat sat on the mat and the dog ran\n" * 40


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT], vocab_size=280)


def read(path, tokenizer, tmp_path, **options):
    for _ in read_documents(path, **options):
        pass


def prepare(path, tokenizer, tmp_path, bad_records=None):
    prepare_tokens(
        path, tokenizer, tmp_path / "out", options=PreparationOptions(max_bad_records=bad_records)
    )


def load(path, tokenizer, tmp_path, bad_records=None):
    options = DataOptions(max_bad_records=bad_records)
    load_tokens(path, tokenizer, options).close()


def load_through_the_cache(path, tokenizer, tmp_path, bad_records=None):
    options = DataOptions(cache_dir=tmp_path / "cache", max_bad_records=bad_records)
    load_tokens(path, tokenizer, options)


WAYS = pytest.mark.parametrize("way", [read, prepare, load, load_through_the_cache])
BAD = {
    "invalid UTF-8": ("a.txt", b"good\nb\xffd\n", "{}:2: not UTF-8 at byte 6 (0xff)"),
    "UTF-8 that breaks off": ("a.txt", b"good \xe2\x82", "{}:1: not UTF-8 at byte 5 (0xe2)"),
    "a line that is no JSON": ("a.jsonl", b'"a"\n{"text": "b\n', "{}:2:12: not JSON ("),
    "a list that breaks off": ("a.json", b'["a", "b"', "{}:1:10: not JSON ("),
    "a list without a comma": ("a.json", b'["a"\n"b"]', "{}:2:1: not JSON ("),
    "a record without the field": (
        "a.jsonl",
        b'{"text": "a"}\n{"body": "b", "id": 1}\n',
        "{}:2: no text field 'text', only 'body', 'id'",
    ),
    "a row too short": ("a.csv", b"id,text\n1,a\n2\n", "{}:3: 1 field where the header has 2"),
    "a truncated gzip": ("a.txt.gz", gzip.compress(TEXT.encode())[:-9], "{}: "),
    "no text": ("a.txt", b"", "{}: empty, there is no text in it"),
    "no documents": ("a.jsonl", b"\n\n", "{}: empty, there is no text in it"),
}


@WAYS
@pytest.mark.parametrize("kind", BAD)
def test_bad_text_stops_with_its_file_and_place(write, tmp_path, tokenizer, way, kind):
    name, content, expected = BAD[kind]
    path = write(name, content)
    with pytest.raises(DataError) as error:
        way(path, tokenizer, tmp_path)
    assert str(error.value).startswith(expected.format(path))
    # Nothing is left that a later start could take for the text.
    if way is not read:
        with pytest.raises(DataError):
            way(path, tokenizer, tmp_path)


TEXTLESS = {
    "a.jsonl": b'{"text": ""}\n""\n',
    "a.json": b'[{"text": ""}, ""]',
    "a.csv": b"id,text\n1,\n2,\n",
}


@WAYS
@pytest.mark.parametrize("name", TEXTLESS)
def test_records_of_which_none_has_text_stop_with_their_file(write, tmp_path, tokenizer, way, name):
    path = write(name, TEXTLESS[name])
    with pytest.raises(DataError) as error:
        way(path, tokenizer, tmp_path)
    assert str(error.value) == f"{path}: no record has text in it; give data that has some"
    with pytest.raises(DataError, match=r"^.*a[.]\w+ and 1 more source: no record has text in it;"):
        way([path, write(f"b{path.suffix}", TEXTLESS[name])], tokenizer, tmp_path / "two")


@pytest.mark.parametrize("way", [prepare, load, load_through_the_cache])
def test_a_file_of_bad_records_alone_is_not_called_empty(write, tmp_path, tokenizer, way):
    paths = [write("a.jsonl", b'"some text"\n' * 9), write("b.jsonl", b"7\n")]
    way(paths, tokenizer, tmp_path, bad_records=0.1)
    bad = BadRecords(1.0)
    assert len([*read_documents(paths, bad=bad)]) == bad.good == 9
    assert bad.first == [f"{paths[1]}:1: found 7 where a string or an object is needed"]
    with pytest.raises(DataError, match=r"^1 bad record among 1, more than 0.1 of them"):
        way(paths[1], tokenizer, tmp_path / "alone", bad_records=0.1)


WORDS = "word " * 60_000
LINES = "word\n" * 60_000
TOO_LONG = {
    "a line of JSON": ("a.jsonl", f'"a"\n"{WORDS}"\n', "2: a line of more than 65,536 characters"),
    "a list in one line": ("a.jsonl", f'["{WORDS}"]', "1: a line of more than 65,536 characters"),
    "a line": ("a.txt", f"a\n\n{WORDS}", "3: a line of more than 65,536 characters"),
    "a paragraph": ("b.txt", f"a\n\n{LINES}", "3: a paragraph of more than 65,536 characters"),
    "a cell": ("a.csv", f"text\na\n{WORDS}\n", "3: a line of more than 65,536 characters"),
    "an open quote": ("a.csv", f'text\na\n"{LINES}', "3: not CSV (field larger than field limit"),
    "an item": ("a.json", f'["a",\n"{WORDS}"]', "2: a value of a list of more than 65,536"),
    "a list in a list": ("a.json", f"[[{'1, ' * 100_000}0]]", "1: a value of a list of more than"),
}


@pytest.mark.parametrize("kind", TOO_LONG)
def test_what_is_too_long_is_refused_and_not_held(write, monkeypatch, kind):
    """With a limit of 64 KiB, no more is read than twice as much, of files of 300 kB."""
    monkeypatch.setattr(files, "BLOCK", 1 << 12)
    monkeypatch.setattr(files, "LONGEST_LINE", 1 << 16)
    name, content, expected = TOO_LONG[kind]
    path, held = write(name, content), []

    def count(file):
        held.append(CountingFile(file))
        return held[0].as_file()

    documents = {"a.txt": "lines", "b.txt": "blank-line"}.get(name, "file")
    with pytest.raises(DataError) as error:
        for _ in read_file(path, path.suffix[1:], TextFormat(documents=documents), wrap=count):
            pass
    assert str(error.value).startswith(f"{path}:{expected}")
    assert held[0].size < 160_000 < path.stat().st_size


@WAYS
def test_a_parquet_file_cut_short_stops(tmp_path, tokenizer, way):
    path = write_parquet(tmp_path / "a.parquet", [{"text": "word " * 50}] * 100)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError) as error:
        way(path, tokenizer, tmp_path)
    assert str(error.value).startswith(f"{path}: not a whole Parquet file (")


@WAYS
def test_a_folder_of_no_files_stops(tmp_path, tokenizer, way):
    (tmp_path / "none").mkdir()
    (tmp_path / "none/notes.pdf").write_bytes(b"%PDF")
    with pytest.raises(DataError, match=r"none: the folder has no .csv, .* file in it; give one"):
        way(tmp_path / "none", tokenizer, tmp_path)


@pytest.mark.parametrize("way", [prepare, load, load_through_the_cache])
@pytest.mark.parametrize("kind", ["an empty gzip", "a truncated gzip"])
def test_what_spoils_a_whole_file_is_no_record_to_leave_out(write, tmp_path, tokenizer, way, kind):
    whole = gzip.compress(TEXT.encode())
    path = write("a.txt.gz", whole[:-9] if kind == "a truncated gzip" else b"")
    with pytest.raises(DataError, match=r"a\.txt\.gz"):
        way(path, tokenizer, tmp_path, bad_records=1.0)


@pytest.mark.parametrize("way", [prepare, load, load_through_the_cache])
def test_too_many_bad_records_stop_and_few_are_told(write, tmp_path, tokenizer, way):
    path = write("a.jsonl", b'"good text"\n' * 99 + b"7\n" * 2)
    with pytest.raises(DataError, match=r"^2 bad records among 101, more than 0.01 of them"):
        way(path, tokenizer, tmp_path, bad_records=0.01)


def test_the_first_ten_of_many_bad_records_are_listed(write):
    path, bad = write("a.jsonl", b'"good"\n' + b"7\n" * 12), BadRecords(1.0)
    assert [one.text for one in read_documents(path, bad=bad)] == ["good"]
    said = bad.describe()
    assert said[0] == "left out 12 bad records, of which the first 10 are:"
    assert [line.split(":")[1] for line in said[1:]] == [str(n) for n in range(2, 12)]


@pytest.mark.parametrize("ending", ["txt", "jsonl", "csv", "parquet"])
def test_nul_bytes_are_text(write, tmp_path, tokenizer, ending):
    text = "a\x00b cat"
    path = {
        "txt": lambda: write("a.txt", text.encode()),
        "jsonl": lambda: write("a.jsonl", b'"a\\u0000b cat"\n'),
        "csv": lambda: write("a.csv", f"text\n{text}\n".encode()),
        "parquet": lambda: write_parquet(tmp_path / "a.parquet", [{"text": text}]),
    }[ending]()
    prepare(path, tokenizer, tmp_path)
    ids = open_prepared(tmp_path / "out").tokens[:].tolist()
    assert ids == [*tokenizer.encode(text), tokenizer.eos_id]


def test_empty_documents_have_no_tokens(write, tmp_path, tokenizer):
    prepare(write("a.jsonl", b'""\n"cat"\n"" \n"dog"\n'), tokenizer, tmp_path)
    stream = open_prepared(tmp_path / "out")
    assert stream.documents == 2
    end = [tokenizer.eos_id]
    assert stream.tokens[:].tolist() == [
        *tokenizer.encode("cat"), *end, *tokenizer.encode("dog"), *end
    ]  # fmt: skip


@pytest.mark.parametrize("way", ["prepare", "load"])
@pytest.mark.parametrize("change", ["grows", "shrinks"])
def test_a_source_that_changes_while_it_is_read_stops(write, tmp_path, tokenizer, way, change):
    path = write("a.txt", TEXT.encode() * 300)

    def spoil(progress):
        with open(path, "r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(b"more") if change == "grows" else file.truncate(1_000)

    def run():
        if way == "load":
            load_tokens(path, tokenizer, DataOptions(watch=spoil))
            return
        small = PreparationOptions(shard_size=20_000)
        prepare_tokens(path, tokenizer, tmp_path / "out", options=small, watch=spoil)

    with pytest.raises(DataError, match=r"a.txt: it changed while it was read \([\d,]+ bytes"):
        run()


@pytest.mark.parametrize("way", ["prepare", "load"])
def test_a_fifo_is_read_once_as_its_text(tmp_path, tokenizer, way):
    path = tmp_path / "pipe.txt"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(TEXT.encode()))
    writer.start()
    if way == "prepare":
        prepare(path, tokenizer, tmp_path)
        found = open_prepared(tmp_path / "out")
    else:
        found = load_tokens(path, tokenizer, DataOptions(cache_dir=tmp_path / "cache"))
    writer.join()
    with found:
        assert found.tokens[:].tolist() == [*tokenizer.encode(TEXT), tokenizer.eos_id]


def test_a_tokenizer_without_an_end_of_text_takes_one_document(write, tokenizer, tmp_path):
    endless = train_tokenizer([TEXT], vocab_size=280, special_tokens=["<unk>"])
    one, two = write("a.txt", b"cat"), write("b.jsonl", b'"cat"\n"dog"\n')
    with load_tokens(one, endless, DataOptions()) as stream:
        assert stream.tokens[:].tolist() == endless.encode("cat")
    for way in (prepare, load):
        with pytest.raises(DataError, match=r"^the tokenizer has no token that ends a text"):
            way(two, endless, tmp_path)


@pytest.mark.parametrize("way", [read, prepare])
def test_a_folder_of_prepared_tokens_is_not_read_as_text(write, tokenizer, tmp_path, way):
    prepare_tokens(write("a.txt", TEXT), tokenizer, tmp_path / "tokens")
    with pytest.raises(DataError, match=rf"^{tmp_path}/tokens holds prepared tokens, where text"):
        way(tmp_path / "tokens", tokenizer, tmp_path)


@pytest.mark.parametrize("way", [read, prepare, load])
def test_a_folder_that_is_being_prepared_is_not_read_as_text(write, tokenizer, tmp_path, way):
    """Nor is one that such a folder is in: its .json files are no text."""
    options = PreparationOptions(shard_size=100)
    text, parts = write("a.txt", TEXT), tmp_path / "all" / "tokens"
    prepare_tokens(text, tokenizer, parts, options=options, part=Part(1, 2))
    expected = rf"^{parts} holds tokens that are not all prepared yet; give the command again"
    for folder in (parts, parts.parent):
        with pytest.raises(DataError, match=expected):
            way(folder, tokenizer, tmp_path)
    prepare_tokens(text, tokenizer, parts, options=options)
    with pytest.raises(DataError, match=rf"^{parts} holds prepared tokens, where text is needed"):
        way(parts.parent, tokenizer, tmp_path)


def draw_windows(stream, tokenizer):
    data = TextDataset(stream, seq_len=8, vocab_size=tokenizer.vocab_size)
    data.draw_batch(Cursor(), samples=len(data.train), micro_batch=len(data.train), accum=1)


def draw_mixture(stream, tokenizer):
    data = TextDataset(stream, seq_len=8, vocab_size=tokenizer.vocab_size)
    mixture = MixtureDataset([data, data], [0.5, 0.5])
    count = len(data.train) * 2
    mixture.draw_batch(Cursor(), samples=count, micro_batch=count, accum=1)


def draw_documents(stream, tokenizer):
    data = DocumentDataset(
        stream, seq_len=2000, vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id
    )
    data.draw_batch(Cursor(), samples=1, micro_batch=1, accum=1)


def show_document(stream, tokenizer):
    PreparedDocuments(stream.folder).read(0)


@pytest.mark.parametrize("use", [draw_windows, draw_mixture, draw_documents, show_document])
def test_a_flipped_bit_never_reaches_a_backend_as_an_id_that_no_token_has(
    write, tokenizer, tmp_path, use
):
    prepare(write("a.txt", TEXT), tokenizer, tmp_path)
    use(open_prepared(tmp_path / "out"), tokenizer)
    shard = tmp_path / "out" / "00000-00000.bin"
    damaged = bytearray(shard.read_bytes())
    damaged[41] ^= 0x40  # the high byte of token 20
    shard.write_bytes(damaged)
    with pytest.raises(DataError, match=rf"^{tmp_path}/out: token id 16,\d+ was read where \d+ is"):
        use(open_prepared(tmp_path / "out"), tokenizer)
