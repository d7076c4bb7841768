"""Files: which ones names and patterns stand for, and their text."""

import io
import os

import pytest

from hermes.data.bad_records import BadRecords
from hermes.data.document_reader import read_documents
from hermes.data.file_names import expand_paths
from hermes.data.files import BLOCK, spool
from hermes.errors import DataError, StorageError
from hermes.storage.temporary import TemporaryFolder
from tests.data.support import message, texts
from tests.data.test_sources import COMPRESS


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
    write("[20]*/c.txt", "c")
    assert texts(f"{tmp_path}/[20]*/*.txt") == ["c"], "a folder of that name, too"


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
    with pytest.raises(StorageError, match=r"^cannot spool standard input to .*: no such file"):
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
    ],
)
def test_files_that_are_not_utf_8_are_refused_by_line_and_byte(write, name, content, place):
    path = write(name, content)
    # One document is the whole file, of which no record could be left out.
    way_on = "" if name == "a.txt" else "; --skip-bad-records leaves such records out"
    assert message(path) == f"{path}:{place}; convert it to UTF-8{way_on}"


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32"])
def test_another_encoding_is_named_and_is_no_bad_record(write, name, encoding):
    """Without a mark, too: UTF-16 of ASCII would else be text with a NUL behind each letter."""
    path = write(name, '{"text": "a"}\n'.encode(encoding))
    named = "UTF-32" if encoding == "utf-32" else "UTF-16"
    for bad in (None, BadRecords(1.0)):
        assert message(path, bad=bad) == (
            f"{path}: {named}, where UTF-8 is needed; convert it, as in iconv -f {named} -t UTF-8"
        )


@pytest.mark.parametrize("ending", ["gz", "xz", "zst"])
def test_a_compressed_file_without_its_ending_is_named(write, ending):
    path = write("a.jsonl", COMPRESS[ending](b'"a"\n'))
    assert message(path) == (
        f"{path}: compressed, which its name does not say; decompress it, or put .{ending} behind "
        "the name"
    )


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


def test_links_are_followed_and_never_in_circles(write, tmp_path):
    """A folder or pattern with a link to a folder that it is in has each of its files once."""
    file, other = write("data/a.txt", "a"), write("elsewhere/b.txt", "b")
    (tmp_path / "data" / "again").symlink_to(".")
    (tmp_path / "data" / "linked").symlink_to(other.parent)
    found = [file, tmp_path / "data" / "linked" / "b.txt"]
    assert expand_paths(tmp_path / "data") == found
    for pattern in ("data/**/*.txt", "data/*", "*/**/[a-z].txt"):
        assert expand_paths(f"{tmp_path}/{pattern}")[:2] == found, pattern
    assert len(expand_paths(f"{tmp_path}/data/**/*.txt")) == 2


@pytest.mark.parametrize("name", ["data", "data/*", "data/a.txt"])
def test_a_link_to_nothing_is_no_file_to_leave_out(write, tmp_path, name):
    write("data/b.txt", "b")
    (tmp_path / "data" / "a.txt").symlink_to("gone/a.txt")
    assert message(f"{tmp_path}/{name}") == (
        f"{tmp_path}/data/a.txt: a link to gone/a.txt, which is not there; restore that, or delete "
        "the link"
    )


def test_a_folder_that_cannot_be_read_is_not_left_out(write, tmp_path, monkeypatch):
    write("data/a.txt", "a")
    write("data/closed/b.txt", "b")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageError, match=r"^cannot look at .*closed: permission denied$"):
        expand_paths(tmp_path / "data")


def test_the_users_folder_is_known_by_its_sign(write, tmp_path, monkeypatch):
    path = write("home/My Text/a.txt", "a")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert expand_paths(["~/My Text", "~/My*/*.txt"]) == [path, path]
    monkeypatch.chdir(tmp_path)
    write("~/a.txt", "a folder of that name comes first")
    assert texts("~/a.txt") == ["a folder of that name comes first"]


def test_what_names_no_file_is_refused():
    assert message("") == ("the name of a file is empty; give one, or . for the folder you are in")
    assert message("-", "-") == "standard input is given twice, and can be read once; keep one -"
