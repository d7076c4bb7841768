"""JSON lists are read item by item, to the same values and errors as the whole at once."""

import json
import random
import tracemalloc

import pytest

from hermes.data import files
from hermes.data.json_list import read_json_list
from hermes.data.records import read_records
from hermes.errors import DataError
from hermes.storage.plain_json import DuplicateKeyError, load_json

TWICE, UNREADABLE = "a key", "a value"


def draw_value(draw, depth=0):
    kinds = ["number", "text", "literal", "float"] + ["list", "object"] * (depth < 3)
    match draw.choice(kinds):
        case "number":
            return draw.randint(-(10**12), 10**12)
        case "float":
            return draw.choice([0.5, -1e-7, 1e300, -1.7e308])
        case "text":
            return "".join(draw.choices('ab"\\\n{[,:]}é\U0001f600\u2028', k=draw.randint(0, 12)))
        case "literal":
            return draw.choice([True, False, None])
        case "list":
            return [draw_value(draw, depth + 1) for _ in range(draw.randint(0, 4))]
        case _:
            return {f"k{n}": draw_value(draw, depth + 1) for n in range(draw.randint(0, 4))}


def cut_at_random(draw, text):
    at, parts = 0, []
    while at < len(text):
        size = draw.choice([1, 2, 3, 7, 40])
        parts.append(text[at : at + size])
        at += size
    return parts


def read(parts):
    """The items, or the line and the column of the error."""
    try:
        return list(read_json_list(parts, "f.json")), None
    except DataError as error:
        found = str(error).split(":")
        if "is given twice" in str(error):
            return None, TWICE
        if "JSON that cannot be read" in str(error):
            return None, UNREADABLE
        return None, (found[1], found[2])


def read_whole(text):
    """As `read`, all at once."""
    try:
        return load_json(text), None
    except DuplicateKeyError:
        return None, TWICE
    except json.JSONDecodeError as error:
        before = text[: min(error.pos, len(text.rstrip()))]
        return None, (str(before.count("\n") + 1), str(len(before) - before.rfind("\n")))
    except ValueError:
        return None, UNREADABLE


@pytest.mark.parametrize("seed", range(60))
def test_items_and_errors_are_those_of_the_whole_text(seed):
    draw = random.Random(seed)
    value = [draw_value(draw) for _ in range(draw.randint(0, 8))]
    indent, ascii_only = draw.choice([None, 0, 2]), draw.random() < 0.5
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only) + draw.choice(["", "\n", " "])
    assert read(cut_at_random(draw, text)) == (value, None)
    for _ in range(20):
        at = draw.randrange(len(text))
        broken = draw.choice([text[:at], text[:at] + draw.choice('x,]}"\\1 ') + text[at + 1 :]])
        there, error = read_whole(broken)
        if not broken.strip():
            assert read([broken]) == ([], None)
        elif error is None and isinstance(there, list):
            assert read(cut_at_random(draw, broken)) == (there, None)
        elif error is not None:
            found = read(cut_at_random(draw, broken))
            assert found[0] is None
            # Newer versions of Python have the comma of '[1,]' for the place of its error, and
            # where a text breaks off behind spaces they may be let go of.
            if ",]" not in "".join(broken.split()) and broken == broken.rstrip():
                assert found[1] == error, broken


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}', "f.json: found an object where a list is needed"),
        ('{"a": 1}\n{"a": 2}', "f.json:2:1: not JSON (extra data); one list is needed; a file of"),
        ("[1]\n]", "f.json:2:1: not JSON (extra data); "),
        ('[\n"a"\n"b"]', "f.json:3:1: not JSON (expecting ',' delimiter); "),
        ('[1, "ab', "f.json:1:5: not JSON (unterminated string); "),
        ('["a\nb"]', "f.json:1:4: not JSON (invalid control character); "),
        ("[1,\n-Infinity]", "f.json:2: JSON that cannot be read (-Infinity is not JSON; null is)"),
        ("[1e300,\n1e309]", "f.json:2: JSON that cannot be read (the number 1e309 is out of"),
    ],
)
def test_what_is_no_list_is_refused_with_its_place(text, message):
    for parts in ([text], list(text)):
        with pytest.raises(DataError) as error:
            list(read_json_list(parts, "f.json"))
        assert str(error.value).startswith(message)


def test_memory_holds_an_item_and_not_the_list(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BLOCK", 1 << 14)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "word " * 200, "n": n} for n in range(4000)], indent=1))
    assert path.stat().st_size > 4_000_000
    tracemalloc.start()
    try:
        for number, record in enumerate(read_records(path)):
            assert record.value["n"] == number
            assert record.where == f"{path}[{number}]"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert number == 3999
    assert peak < 500_000


def test_a_mistake_early_in_a_long_file_is_found_without_reading_on():
    def parts():
        yield '[{"text": "a"}, {"text" "b"},' + " " * 100
        raise AssertionError("more is read than is needed")

    with pytest.raises(DataError, match=r"f\.json:1:25: not JSON \(expecting ':' delimiter\)"):
        list(read_json_list(parts(), "f.json"))
