"""Reading: text as it stands, in bounded pieces, and an error that names the place."""

import io
import json
import tracemalloc
from pathlib import Path

import pytest

from hermes.data.document_reader import Document, read_documents
from hermes.errors import DataError, StorageError
from hermes.tokenizer.bytelevel import PIECE
from tests.data.support import message, texts


def test_a_text_file_is_one_document_as_it_stands(write):
    content = "\n two \r\nlines\r\n\x00\u2028\ufeff end"
    path = write("a.txt", content)
    assert list(read_documents(path)) == [Document(content, str(path), 1)]


def test_a_byte_order_mark_is_not_text(write):
    assert texts(write("a.txt", b"\xef\xbb\xbfabc")) == ["abc"]
    assert texts(write("a.jsonl", b'\xef\xbb\xbf{"text": "abc"}')) == ["abc"]
    assert texts(write("a.csv", b"\xef\xbb\xbftext\nabc\n")) == ["abc"]
    assert texts(write("a.json", b'\xef\xbb\xbf["abc"]')) == ["abc"]


def test_lines_of_json_are_documents_and_know_their_line(write):
    path = write("a.jsonl", '{"text": "one\\ntwo"}\r\n\n"three"\n{"id": 4, "text": "\u2028x"}')
    found = list(read_documents(path))
    assert [(d.text, d.line) for d in found] == [("one\ntwo", 1), ("three", 3), ("\u2028x", 4)]


def test_a_list_of_json_is_documents(write):
    assert texts(write("a.json", '["a", {"text": "b"}]')) == ["a", "b"]


def test_rows_of_csv_are_documents_and_may_hold_lines_and_quotes(write):
    path = write("a.csv", 'id,text\r\n1,"one, ""1""\r\nstill one"\r\n\r\n2,two\r\n')
    assert [(d.text, d.line) for d in read_documents(path)] == [
        ('one, "1"\r\nstill one', 2),
        ("two", 5),
    ]


def test_another_field_can_hold_the_text(write):
    assert texts(write("a.jsonl", '{"body": "abc"}'), text_field="body") == ["abc"]


def test_empty_documents_are_left_out(write):
    assert texts(write("a.jsonl", '{"text": ""}\n{"text": "a"}')) == ["a"]


def test_files_come_in_the_order_given(write):
    a, b = write("a.txt", "a"), write("b.txt", "b")
    assert texts(b, a, b) == ["b", "a", "b"]


def test_standard_input_is_text_or_the_format_named(monkeypatch):
    def given(content):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    given(b'{"text": "a"}\n')
    assert [(d.text, d.path) for d in read_documents("-")] == [
        ('{"text": "a"}\n', "standard input")
    ]
    given(b'{"text": "a"}\n"b"')
    assert texts("-", file_format="jsonl") == ["a", "b"]
    given(b"")
    assert message("-").startswith("standard input: empty, there is no text in it")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "a.json",
            '["a",\n oops]',
            ":2:2: not JSON (expecting value); one list is needed; a file of one object a line is "
            "called .jsonl",
        ),
        (
            "a.json",
            '{"a": 1}',
            ": found an object where a list is needed; a file of one object a line is called "
            ".jsonl",
        ),
        ("a.json", '["a",\n{"b": 1, "b": 2}]', ":2: the key 'b' is given twice; keep one"),
        (
            "a.csv",
            "id;text\n1;a\n",
            ":1: no text field 'text'; the one cell 'id;text' seems to be several with semicolons "
            "between; .csv has commas, .tsv tabs",
        ),
        (
            "a.csv",
            "id,text\r1,a\r2,b\r",
            ":1: not CSV (a line ends with \\r alone); end lines with \\n",
        ),
        (
            "train.bin",
            "x",
            ": a .bin file holds tokens, where text is needed; train and eval take it as it is, "
            "with the --tokenizer that made it",
        ),
        (
            "a.csv",
            "id,Text\n1,a\n",
            ":1: no text field 'text', only 'id', 'Text'; did you mean 'Text'?",
        ),
        ("a.csv", "text,text\na,b\n", ":1: more than one field 'text'; keep one"),
        ("a.csv", 'text\n"a\n', ':2: not CSV (unexpected end of data); quote fields with ""'),
        (
            "a.pdf",
            "x",
            ": unknown ending '.pdf'; known are .csv, .json, .jsonl, .parquet, .tsv, .txt, also "
            "with .gz, .xz or .zst behind it: rename it, or say by --format which format it has",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(write, name, content, expected):
    path = write(name, content)
    assert message(path) == f"{path}{expected}"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "a.jsonl",
            '"a"\n{"id": 1, "TEXT": "b"}',
            ":2: no text field 'text', only 'id', 'TEXT'; did you mean 'TEXT'?",
        ),
        (
            "a.jsonl",
            '{"content": "b"}',
            ":1: no text field 'text', only 'content'; name the one that holds text by "
            "--text-field",
        ),
        (
            "a.jsonl",
            "{}",
            ":1: no text field 'text', only none; name the one that holds text by --text-field",
        ),
        ("a.jsonl", '{"text": null}', ":1: field 'text': found null where a string is needed"),
        ("a.jsonl", '{"text": 7}', ":1: field 'text': found 7 where a string is needed"),
        (
            "a.jsonl",
            '{"text": "a", "text": "b"}',
            ":1: the key 'text' is given twice; keep one",
        ),
        ("a.jsonl", '["a"]', ":1: found a list where a string or an object is needed"),
        (
            "a.jsonl",
            '"a"\n{"text": "b"',
            ":2:13: not JSON (expecting ',' delimiter); one JSON value a line is needed",
        ),
        (
            "a.jsonl",
            '{"text": "b"\n"a"\n',
            ":1:13: not JSON (expecting ',' delimiter); one JSON value a line is needed",
        ),
        (
            "a.jsonl",
            '"a"\n"\\ud83d"',
            ":2: half of a surrogate pair, \\ud83d, which is not a character; write the text as "
            "UTF-8",
        ),
        ("a.json", '["a", 1]', "[1]: found 1 where a string or an object is needed"),
        (
            "a.csv",
            "id,text\n1,a\n2,b,c\n",
            ":3: 3 fields where the header has 2; quote fields that have commas or line ends in "
            "them",
        ),
    ],
)
def test_a_bad_record_is_named_with_its_place_and_the_way_out(write, name, content, expected):
    path = write(name, content)
    assert message(path) == f"{path}{expected}; --skip-bad-records leaves such records out"


def test_unknown_formats_and_no_files_are_refused(write, tmp_path):
    assert message(write("a.txt", "a"), file_format="xml") == (
        "format 'xml' is unknown; known are csv, json, jsonl, parquet, tsv, txt"
    )
    assert message().startswith("no files of text are given")
    (tmp_path / "d").mkdir()
    assert "the folder has no .csv, .json, .jsonl, .parquet, .tsv, .txt file in it" in message(
        tmp_path / "d"
    )
    assert "the pattern matches no file" in message(f"{tmp_path}/*.none")


def test_a_file_that_may_not_be_read_is_a_storage_error(write, monkeypatch):
    path = write("a.txt", "a")

    def refused(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refused)
    with pytest.raises(StorageError, match=r"^cannot read .*a.txt: permission denied$"):
        list(read_documents(path))


def test_a_long_document_comes_in_pieces_that_say_so(write):
    text = "some words on a line\n" * (PIECE // 5)
    for path in (
        write("a.txt", text),
        write("a.jsonl", json.dumps(text)),
        write("a.json", json.dumps([text])),
        write("a.csv", f'text\n"{text}"\n'),
    ):
        found = list(read_documents(path))
        assert "".join(d.text for d in found) == text
        assert len(found) > 1
        assert [d.more for d in found] == [True] * (len(found) - 1) + [False]
    lines = [d.line for d in read_documents(write("a.txt", text))]
    assert lines[0] == 1
    assert lines[-1] == 1 + sum(d.text.count("\n") for d in list(read_documents(path))[:-1])


def test_a_large_file_is_not_held_whole(write):
    path = write("a.txt", ("some words on a line\n" * 50_000) * 20)
    tracemalloc.start()
    size = sum(len(document.text) for document in read_documents(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 21_000_000
    assert peak < 10_000_000


def test_an_unknown_ending_is_tried_as_text_with_a_note(write):
    path = write("a.md", "# A title")
    with pytest.warns(UserWarning, match=r"a.md: unknown ending '.md', read as text; --format"):
        assert texts(path) == ["# A title"]


def test_an_address_is_named_as_it_was_typed():
    with pytest.raises(DataError, match=r"^https://nowhere\.invalid/x\.zip: unknown e"):
        list(read_documents(Path("https://nowhere.invalid/x.zip")))
    with (
        pytest.warns(UserWarning, match=r"^memory://nowhere/x\.words: unknown e"),
        pytest.raises(DataError, match=r"^memory://nowhere/x\.words"),
    ):
        list(read_documents(Path("memory://nowhere/x.words")))
