"""The check of text finds what would spoil a run, with places, and nothing in good text."""

import json

import pytest

import hermes
from hermes.data.checking import check_text
from hermes.errors import DataError
from tests.data.support import TEXT


def test_good_text_has_no_faults(write, tokenizer):
    path = write("a.jsonl", "".join(json.dumps({"text": f"{n} {TEXT}"}) + "\n" for n in range(9)))
    found = check_text(path, tokenizer=tokenizer)
    assert (found.files, found.documents, found.faults, found.unread) == (1, 9, [], {})
    ids = [len(tokenizer.encode(f"{n} {TEXT}")) + 1 for n in range(9)]
    assert (found.tokens, found.longest) == (sum(ids), max(ids))
    assert found.longer == sum(length > 256 for length in ids)
    assert found.bytes_per_token == found.text_bytes / sum(ids)
    assert sum(found.lengths.values()) == 9


FAULTS = {
    "bad_records": '{"text": 7}',
    "replacements": '{"text": "lost \ufffd here"}',
    "mojibake": '{"text": "CafÃ© au lait"}',
    "nuls": '{"text": "a\\u0000b"}',
    "overlap": '{"text": "held out"}',
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_with_its_place_and_no_other(write, fault):
    good = '{"text": "the café is – “good” – and costs 3 €, señor Ångström"}\n'
    path = write("a.jsonl", good + FAULTS[fault] + "\n" + '{"text": "last"}\n')
    held_out = write("val.jsonl", '{"text": "held out"}\n')
    found = check_text(path, validation=held_out)
    assert len(found.faults) == 1
    assert f"{path}:2" in found.faults[0]
    places = getattr(found, fault)
    assert places.count == 1


def test_repeated_documents_and_fields_that_are_not_read_are_told(write):
    lines = ['{"text": "a", "id": 1}', '{"text": "b", "meta": {}, "id": 2}', '{"text": "a"}']
    found = check_text(write("a.jsonl", "\n".join(lines)))
    assert found.unread == {"id": 2, "meta": 1}
    assert (found.repeated.count, found.repeated.first[0][-9:]) == (1, "a.jsonl:3")
    assert found.faults == []


def test_a_long_document_is_one(write):
    found = check_text(write("a.txt", TEXT * 900))
    assert (found.documents, found.longest) == (1, 900 * len(TEXT))


def test_an_empty_or_cut_file_stops_the_check(write):
    with pytest.raises(DataError, match=r"not a whole \.gz file"):
        check_text(write("a.txt.gz", b"\x1f\x8b\x08\x00"))
    with pytest.raises(DataError, match="empty, there is no text in it"):
        check_text(write("a.txt", ""))
    assert hermes.check_data(write("b.txt", "a")).documents == 1
