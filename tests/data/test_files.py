"""Files: which ones names and patterns stand for, and their text."""

import io

import pytest

from hermes.data.document_reader import read_documents
from hermes.data.files import BLOCK, expand_paths, spool
from hermes.errors import DataError, StorageError
from hermes.storage.temporary import TemporaryFolder
from tests.data.support import message, texts


def test_a_folder_stands_for_its_known_files_by_name(write, tmp_path):
    write("d/b.txt", "b")
    write("d/a/z.JSONL", '"z"')
    write("d/picture.png", b"\x89PNG")
    assert texts(tmp_path / "d") == ["z", "b"]


def test_a_pattern_stands_for_what_it_matches(write, tmp_path):
    for name in "ba":
        write(f"{name}.txt", name)
    assert texts(f"{tmp_path}/*.txt") == ["a", "b"]
    assert texts(write("[x].txt", "a file of that name comes first")) != []


def test_what_is_spooled_can_be_read_again(tmp_path):
    path = spool(io.BytesIO(b'"a"\n"b"'), tmp_path, file_format="jsonl")
    assert texts(path) == texts(path) == ["a", "b"]


def test_what_is_spooled_keeps_the_name_of_where_it_came_from():
    with TemporaryFolder("input") as folder:
        path = spool(io.BytesIO(b"a\n\xff"), folder)
        refused = message(path)
        assert refused == "standard input:2: not UTF-8 at byte 2 (0xff); convert it to UTF-8"
        path = spool(io.BytesIO(b""), folder)
        empty = "standard input: empty, there is no text in it; pipe some in, or name a file"
        assert message(path) == empty


def test_a_file_without_an_ending_is_read_as_text(write):
    warned = "notes: no ending, read as text; --format says otherwise$"
    with pytest.warns(UserWarning, match=warned):
        assert texts(write("notes", "a")) == ["a"]


def test_spooling_to_no_folder_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match=r"^cannot spool standard input to .*: No such file"):
        spool(io.BytesIO(b"a"), tmp_path / "none")


def test_missing_files_are_named_before_anything_is_read(write, tmp_path):
    with pytest.raises(DataError, match=r"none.txt: no such file; check the name$"):
        read_documents([write("a.txt", "a"), tmp_path / "none.txt"])


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"", "empty, there is no text in it; leave it out or fill it"),
        ("a.jsonl", b"\n\n", "empty, there is no text in it; leave it out or fill it"),
        ("a.csv", b"text\n", "empty, there is no text in it; leave it out or fill it"),
        ("a.json", b"[]", "empty, there is no text in it; leave it out or fill it"),
    ],
)
def test_empty_files_are_refused(write, name, content, expected):
    path = write(name, content)
    assert message(path) == f"{path}: {expected}"


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.txt", b"abc\xffd", "1: not UTF-8 at byte 3 (0xff)"),
        ("a.txt", b"abc\xe2\x82", "1: not UTF-8 at byte 3 (0xe2)"),
        ("a.jsonl", b'"a"\n"\xe9"', "2: not UTF-8 at byte 5 (0xe9)"),
        ("a.txt", "über".encode("utf-16"), "1: not UTF-8 at byte 0 (0xff)"),
    ],
)
def test_files_that_are_not_utf_8_are_refused_by_line_and_byte(write, name, content, place):
    path = write(name, content)
    # One document is the whole file, of which no record could be left out.
    way_on = "" if name == "a.txt" else "; --skip-bad-records leaves such records out"
    assert message(path) == f"{path}:{place}; convert it to UTF-8{way_on}"


def test_the_offset_of_a_wrong_byte_counts_from_the_start_of_the_file(write):
    content = b"\n" * (BLOCK - 1) + "é".encode() + b"\n" * 10 + b"\xff"
    expected = f":{BLOCK + 10}: not UTF-8 at byte {BLOCK + 11} (0xff)"
    assert expected in message(write("a.txt", content))


def test_sources_are_the_files_themselves(write, tmp_path):
    a = write("d/a.txt", "a")
    assert expand_paths([tmp_path / "d", "-"]) == [a, type(a)("-")]


def test_hidden_files_of_a_folder_are_left_out(write, tmp_path):
    """AppleDouble's, an editor's, a notebook's copies; named by themselves they are read."""
    folder = tmp_path / "data"
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    for name in ("a.txt", "._a.txt", ".ipynb_checkpoints/a.txt"):
        (folder / name).write_text("x")
    assert expand_paths(folder) == [folder / "a.txt"]
    assert expand_paths(folder / "._a.txt") == [folder / "._a.txt"]
