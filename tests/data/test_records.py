"""Records of JSON and CSV at their limits."""

import time

import pytest

from hermes.data.records import read_records
from hermes.errors import DataError
from tests.data.support import message, texts


def test_a_field_of_csv_may_be_long_and_the_module_s_limit_stays(write):
    import csv

    before = csv.field_size_limit()
    assert "".join(texts(write("a.csv", "text\n" + "x" * 200_000))) == "x" * 200_000
    assert csv.field_size_limit() == before


def test_a_number_too_long_and_brackets_too_deep_are_one_line(write):
    assert ":1: JSON that cannot be read" in message(write("a.jsonl", "9" * 5000))
    assert ":1: JSON that cannot be read" in message(write("b.jsonl", "[" * 100_000))


def test_a_header_of_many_columns_is_read_in_a_moment(write):
    """Its cost is that of its length: 40,000 columns took minutes when each was counted."""
    names = ",".join(f"c{number}" for number in range(40_000))
    began = time.thread_time()
    assert texts(write("a.csv", f"text,{names}\nhello,{',' * 39_999}\n")) == ["hello"]
    assert ":1: more than one field 'c7'; keep one" in message(write("b.csv", f"{names},c7\n"))
    assert time.thread_time() - began < 5


@pytest.mark.parametrize("file_format", ["json", "jsonl", "parquet", "csv", "tsv"])
def test_a_format_that_was_given_is_named_where_it_is_wrong(tmp_path, file_format):
    path = tmp_path / "text.txt"
    path.write_text('one\n"open\n')
    with pytest.raises(DataError, match=f"; --format says {file_format}"):
        list(read_records([path], file_format=file_format))
    other = path.rename(tmp_path / f"text.{file_format}")
    with pytest.raises(DataError) as caught:
        list(read_records([other]))
    assert "--format" not in str(caught.value)
