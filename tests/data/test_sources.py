"""Sources: every format and compression, other machines' files, and what damage gets."""

import gzip
import http.server
import io
import json
import lzma
import os
import random
import threading
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from hermes.data import read_records
from hermes.data.bad_records import SKIP_ADVICE, BadRecordError, BadRecords
from hermes.data.document_reader import read_documents
from hermes.data.remote import locate_source
from hermes.errors import DataError, HermesError
from tests.data.support import message, texts

COMPRESS = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor().compress,
}
LINES = b'{"text": "one"}\n{"text": "two"}\n'


def write_parquet(path, rows, **options):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return path


@pytest.mark.parametrize("ending", COMPRESS)
def test_compressed_files_are_read_as_what_is_in_them(write, tmp_path, ending):
    path = write(f"d/a.jsonl.{ending}", COMPRESS[ending](LINES))
    assert texts(path) == ["one", "two"]
    assert texts(tmp_path / "d") == ["one", "two"]
    assert [record.value["text"] for record in read_records(path)] == ["one", "two"]
    both = COMPRESS[ending](LINES) + COMPRESS[ending](b'"three"\n')
    assert texts(write(f"b.jsonl.{ending}", both)) == ["one", "two", "three"]


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("keep", [0.5, -1], ids=["half", "all but a byte"])
def test_a_compressed_file_cut_short_is_never_taken_for_a_whole_one(write, ending, keep):
    whole = COMPRESS[ending](random.Random(0).randbytes(1 << 16).hex().encode())
    kept = whole[:-1] if keep == -1 else whole[: len(whole) // 2]
    path = write(f"a.txt.{ending}", kept)
    found = message(path)
    assert found.startswith(f"{path}: not a whole .{ending} file (")
    assert found.endswith("); copy or compress it again")


def test_frames_of_zstandard_may_look_back_as_far_as_its_command_lets_them(write):
    """Collections of gigabytes are published so; the library itself stops at 128 MiB."""
    for log in (27, 31):
        options = zstandard.ZstdCompressionParameters.from_level(1, window_log=log)
        writer = zstandard.ZstdCompressor(compression_params=options).compressobj()  # of no size
        path = write("a.txt.zst", writer.compress(b"the cat") + writer.flush())
        assert texts(path) == ["the cat"]


@pytest.mark.parametrize("ending", COMPRESS)
def test_a_plain_file_under_a_compressed_name_is_refused(write, ending):
    assert f"not a whole .{ending} file (" in message(write(f"a.txt.{ending}", b"plain text"))


def test_lines_and_paragraphs_can_be_documents(write):
    path = write("a.txt", "one\r\n\n two\n  \nthree\nfour\n\n\n")
    found = list(read_documents(path, documents="lines"))
    assert [(d.text, d.line) for d in found] == [("one", 1), (" two", 3), ("three", 5), ("four", 6)]
    found = list(read_documents(path, documents="blank-line"))
    assert [(d.text, d.line) for d in found] == [("one", 1), (" two", 3), ("three\nfour", 5)]
    assert message(path, documents="pages") == (
        "documents 'pages' is unknown; known are file, lines, blank-line"
    )


def test_columns_of_a_tsv_are_between_tabs(write):
    path = write("a.tsv", 'id\ttext\n1\tone, 1\n2\t"tab\there"\n')
    assert texts(path) == ["one, 1", "tab\there"]


def test_a_row_without_a_header_is_a_document(write):
    assert texts(write("a.csv", "one,1\ntwo,2,3\n"), no_header=True) == ["one 1", "two 2 3"]
    assert texts(write("a.tsv", "one\t1\n"), no_header=True) == ["one 1"]


def test_parquet_is_read_by_row_groups(tmp_path):
    rows = [{"text": f"row {n}", "n": n} for n in range(3000)]
    path = write_parquet(tmp_path / "a.parquet", rows, row_group_size=500)
    assert texts(path) == [row["text"] for row in rows]
    assert [record.value for record in read_records(path)] == rows
    assert [d.line for d in read_documents(path)][:3] == [1, 2, 3]


def test_a_value_that_python_does_not_have_spoils_no_other(tmp_path):
    """Not even its own record, where it is not read."""
    unreadable = {
        "year": pyarrow.array([4_000_000, 1], pyarrow.date32()),
        "zone": pyarrow.array([1, 2], pyarrow.timestamp("us", "No/Where")),
    }
    words = pyarrow.array([b"good", b"b\xffd"], pyarrow.binary()).view(pyarrow.string())
    for column in (words, words.dictionary_encode()):
        path = tmp_path / "a.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"text": column, **unreadable}), path)
        reason = f"{path}[1]: field 'text': not UTF-8 (0xff); convert it to UTF-8"
        assert message(path) == f"{reason}{SKIP_ADVICE}"
        bad = BadRecords(1.0)
        assert [one.text for one in read_documents(path, bad=bad)] == ["good"]
        assert bad.first == [reason]
        record = next(read_records(path))
        assert list(record.value) == ["text", *unreadable]
    assert message(path, text_field="year") == (
        f"{path}[0]: field 'year': found an unreadable date32[day] where a string is needed"
        f"{SKIP_ADVICE}"
    )
    table = pyarrow.Table.from_arrays([words, words], names=["text", "text"])
    pyarrow.parquet.write_table(table, path)
    assert message(path) == f"{path}: more than one field 'text'; keep one"


def test_mistakes_in_parquet_are_named(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [{"Text": "a"}])
    assert message(path) == f"{path}: no text field 'text', only 'Text'; did you mean 'Text'?"
    path = write_parquet(tmp_path / "b.parquet", [{"text": "a"}, {"text": None}])
    assert message(path) == (
        f"{path}[1]: field 'text': found null where a string is needed{SKIP_ADVICE}"
    )
    path = write_parquet(tmp_path / "c.parquet", [{"text": "a" * 100}] * 100)
    whole = path.read_bytes()
    for kept in (whole[:-1], whole[: len(whole) // 2], whole[:40] + b"\0" * 40 + whole[80:]):
        path.write_bytes(kept)
        assert message(path).startswith(f"{path}: not a whole Parquet file (")
    path = write_parquet(tmp_path / "d.parquet", [{"text": "a"}]).rename(tmp_path / "d.parquet.gz")
    assert message(path) == f"{path}: a Parquet file is compressed inside; decompress this one"
    assert message("-", file_format="parquet").startswith("standard input: a Parquet file is not")


@pytest.mark.parametrize("module", ["zstandard", "pyarrow", "fsspec", "datasets"])
def test_a_missing_library_is_named_with_its_extra(write, tmp_path, monkeypatch, module):
    extra = {"zstandard": "zstd", "pyarrow": "parquet", "fsspec": "remote", "datasets": "datasets"}
    data = {
        "zstandard": write("a.txt.zst", COMPRESS["zst"](b"a")),
        "pyarrow": write_parquet(tmp_path / "a.parquet", [{"text": "a"}]),
        "fsspec": "memory://a.txt",
        "datasets": "hf://datasets/owner/name",
    }
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(HermesError, match=rf"pip install 'hermes-llm\[{extra[module]}\]'$"):
        texts(data[module])


def test_a_bad_record_stops_or_is_counted(write):
    content = b'"a"\n{"text": 7}\nnot json\n"b\xff"\n"c"\n{"id": 1}\n"\\ud800"\n'
    path = write("a.jsonl", content)
    said = f"{path}:4: not UTF-8 at byte 27 (0xff); convert it to UTF-8"
    assert message(path) == f"{said}{SKIP_ADVICE}"
    with pytest.raises(BadRecordError) as caught:
        texts(path)
    assert caught.value.reason == said
    bad = BadRecords(limit=1.0)
    assert texts(path, bad=bad) == ["a", "c"]
    assert (bad.good, bad.bad) == (2, 5)
    assert [line.split(":")[1] for line in bad.describe()[1:]] == ["2", "3", "4", "6", "7"]
    assert bad.first[2] == f"{path}:4: not UTF-8 (0xff); convert it to UTF-8"


def test_too_many_bad_records_stop(write):
    path = write("a.jsonl", b'"a"\n' * 98 + b"7\n8\n")
    bad = BadRecords()
    assert texts(path, bad=bad) == ["a"] * 98
    with pytest.raises(
        DataError,
        match=r"^2 bad records among 100, more than 0.01 of them; the first: .*a.jsonl:99: found 7",
    ):
        bad.check()
    many = write("b.jsonl", b"7\n" * 20_000)
    with pytest.raises(DataError, match=r"^101 bad records among 101, more than 0.01"):
        texts(many, bad=BadRecords())
    with pytest.raises(DataError, match=r"^--max-bad-records must be from 0 to 1, got 2$"):
        BadRecords(2)


def test_rows_of_another_length_are_bad_records(write):
    path = write("a.csv", "id,text\n1,a\n2,b,c\n3,d\n")
    bad = BadRecords(1.0)
    assert texts(path, bad=bad) == ["a", "d"]
    assert bad.first == [
        f"{path}:3: 3 fields where the header has 2; quote fields that have commas or line ends in "
        "them"
    ]


def test_a_line_of_a_hundred_megabytes_is_a_document(write):
    path = write("a.jsonl", b'{"text": "' + b"word " * 20_000_000 + b'"}\n')
    found = list(read_documents(path))
    assert sum(len(d.text) for d in found) == 100_000_000
    assert {d.line for d in found} == {1}


def test_a_pipe_is_read_once(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(LINES))
    writer.start()
    assert texts(path, file_format="jsonl") == ["one", "two"]
    writer.join()


def test_standard_input_may_be_records(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(LINES)))
    assert texts("-", file_format="jsonl") == ["one", "two"]


@pytest.fixture
def server(tmp_path):
    """A folder served over HTTP, and its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()
        thread.join()


def test_files_at_addresses_are_read_through_fsspec(write):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe({"/d/a.jsonl.gz": gzip.compress(LINES), "/d/b.txt": b"three"})
    try:
        assert texts("memory://d/a.jsonl.gz", "memory://d/b.txt") == ["one", "two", "three"]
        assert texts("memory://d/*") == ["one", "two", "three"]
        assert message("memory://d/none.txt") == (
            "memory://d/none.txt: no such file; check the name"
        )
        assert "the pattern matches no file" in message("memory://d/*.none")
    finally:
        memory.rm("/d", recursive=True)
    with pytest.raises(HermesError, match=r"^nowhere://a.txt: fsspec cannot open nowhere://"):
        texts("nowhere://a.txt")


ADDRESSES = (
    "https://user:hunter2@host/a.txt",
    "https://hunter2@host/a.txt",
    "s3://KEY:hunter2@bucket/a.txt",
    "https://host/a.txt?x=1&X-Amz-Signature=hunter2",
    "https://host/a.jsonl?sv=2&sig=hunter2",
    "https://host/a.jsonl?access_token=hunter2",
    "https:/user:hunter2@host/a.txt",  # as a Path has it
)


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_that_holds_a_secret_is_refused_without_repeating_it(address):
    for refuse in (texts, locate_source, lambda name: texts(Path(name))):
        with pytest.raises(DataError, match="has a password, token or signature in it") as refused:
            refuse(address)
        assert "hunter2" not in str(refused.value)


def test_other_addresses_are_taken_as_they_are():
    for address in (
        "sftp://me@host/a.txt",
        "https://host/a@b:c.txt?version=1&tokens=2",
        "s3://b/k",
    ):
        assert locate_source(address) == address


def test_files_are_read_over_http(write, server):
    pytest.importorskip("aiohttp")
    write("a.jsonl.gz", gzip.compress(LINES))
    assert texts(f"{server}/a.jsonl.gz") == ["one", "two"]
    assert message(f"{server}/none.txt") == (
        f"{server}/none.txt: no such file, or no answer from its host; check the name"
    )
    assert message("http://127.0.0.1:9/a.txt").startswith("http://127.0.0.1:9/a.txt: no such file")


def test_a_dataset_of_the_hub_is_streamed_by_its_library(monkeypatch, tmp_path, write):
    """The library reads a local folder that stands in for OWNER/NAME; nothing is downloaded."""
    pytest.importorskip("datasets")
    rows = [{"text": f"row {n}"} for n in range(5)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write("owner/name/train.jsonl", lines)
    write("owner/name/test.jsonl", '{"text": "held out"}\n')
    monkeypatch.chdir(tmp_path)
    assert texts("hf://datasets/owner/name") == [row["text"] for row in rows]
    assert texts("hf://datasets/owner/name:test") == ["held out"]
    found = list(read_documents("hf://datasets/owner/name"))
    assert (found[1].path, found[1].line) == ("hf://datasets/owner/name", 2)
    assert message("hf://datasets/owner/name:dev").startswith("hf://datasets/owner/name:dev: ")
    assert message("hf://datasets/owner/name", text_field="body") == (
        "hf://datasets/owner/name[0]: no text field 'body', only 'text'; name the one that holds "
        f"text by --text-field{SKIP_ADVICE}"
    )
