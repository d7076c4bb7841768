"""JSON of others is parsed in one place, which refuses what would fail or lie further on."""

import ast
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from hermes.chat_templates.messages import read_list
from hermes.data.bad_records import BadRecords
from hermes.data.records import read_records
from hermes.errors import DataError
from hermes.serving.tool_calls import split_tool_calls
from hermes.storage.plain_json import DEEPEST, decode_json, load_json
from tests.packages import PACKAGES, ROOT

DEEP = b"[" * 100_000
TOOLS = [{"type": "function", "function": {"name": "f"}}]
REFUSED = {
    "NaN": "NaN is not JSON",
    "[-Infinity]": "-Infinity is not JSON",
    "-1e400": "the number -1e400 is out of range",
    "9" * 5_000: "a number has too many digits",
    '{"a": 1, "b": {}, "a": 2}': "the key 'a' is given twice",
    "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1): "nested more than 200 levels deep",
    '{"a":' * 100_000: "nested more than 200 levels deep",
}

# Texts that this program wrote, read by itself in the same run: by other ranks and processes, which
# may tell of NaN, and what libraries made of files that were checked.
OWN_TEXTS = {
    ("backends/hermes_torch/process_group.py", "dump"),
    ("conformance/hermes_conformance/mutants/random_mutants.py", "line"),
    ("conformance/hermes_conformance/mutants/server.py", "line"),
    ("conformance/hermes_conformance/mutants/server.py", "text"),
    ("hermes/chat_templates/render_client.py", "read_exactly(target, size)"),
    ("hermes/chat_templates/render_process.py", "read_exactly(source, size)"),
    ("hermes/distributed/beat_channel.py", "text"),
    ("hermes/finetuning/base_model.py", "tokenizer.to_json()"),
    ("hermes/finetuning/preference_evaluation.py", ""),
    ("hermes/tokenizer/split_files.py", "tokenizer.to_json()"),
    ("hermes/tokenizer/tokenizer.py", "self._pipelines.original.to_str()"),
    ("hermes/training/coordination.py", "text"),
    ("hermes/training/new_tokenizer.py", "told"),
    ("hermes/training/rank_checks.py", "text"),
    ("hermes/training/text_data.py", "text"),
}
PARSERS = {"hermes/storage/plain_json.py", "hermes/storage/strict_json.py"}


@pytest.mark.parametrize("text", [DEEP, "[NaN]", "-Infinity", "{", "", b"\xff", "1 2", "\ufeff1"])
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        load_json(text)


@pytest.mark.parametrize(("text", "reason"), REFUSED.items(), ids=range(len(REFUSED)))
def test_what_json_does_not_hold_is_named(text, reason):
    for parse in (load_json, lambda text: decode_json(f"  {text} more", 2)):
        with pytest.raises(ValueError, match=reason):
            parse(text)


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_a_record_with_it_is_a_bad_one_with_its_line(tmp_path, text):
    lines, items = tmp_path / "a.jsonl", tmp_path / "a.json"
    lines.write_text(f'"a"\n{text}\n"b"\n')
    items.write_text(f'["a",\n{text}]')
    for path in (lines, items):
        with pytest.raises(
            DataError, match=f"{path.name}:2: (JSON that cannot be read|the key 'a')"
        ):
            list(read_records([path]))
    assert [record.value for record in read_records([lines], bad=BadRecords(1))] == ["a", "b"]


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_json_within_a_text_is_held_to_the_same(text):
    with pytest.raises(DataError, match="here: a string that is not JSON"):
        read_list(f"[{text}]", "here")
    call = f'{{"name": "f", "arguments": {{"x": {text}}}}}'
    for answer in (call, f"<tool_call>{call}</tool_call>", f"[TOOL_CALLS] [{call}]"):
        assert split_tool_calls(answer, TOOLS) == (answer, [])


def test_json_is_as_ever():
    assert load_json(b'{"a": [1, 2.5, null, true, "\\u00e4"]}') == {"a": [1, 2.5, None, True, "ä"]}
    assert load_json(' \n{"a": 1, "b": {"a": 2}}\t') == {"a": 1, "b": {"a": 2}}
    assert load_json("[1]".encode("utf-16")) == load_json(b"\xef\xbb\xbf[1]") == [1]
    assert load_json("1" + "0" * 4_000) == 10**4_000
    assert decode_json('{"a": "]"}</tool_call>', 0) == ({"a": "]"}, 10)
    brackets = ["[" * 500, "{" * 500]
    assert load_json(json.dumps(brackets)) == brackets


def test_how_deep_it_may_be_does_not_depend_on_who_asks():
    deepest = "[" * DEEPEST + "]" * DEEPEST

    def nest(levels):
        return nest(levels - 1) if levels else load_json(deepest)

    with ThreadPoolExecutor(1) as pool:  # a stack of its own
        assert pool.submit(nest, sys.getrecursionlimit() - DEEPEST - 50).result() == nest(0)


def find_parsers(text):
    """Where a source parses JSON by Python's module, as (line, what is parsed)."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Call(func=ast.Attribute(ast.Name("json"), "loads" | "load"), args=[what, *_]):
                yield node.lineno, ast.unparse(what)
            case ast.Call(args=[ast.Attribute(ast.Name("json"), "loads" | "load"), *_]):
                yield node.lineno, ""
            case ast.Attribute(ast.Name("json"), "JSONDecoder"):
                yield node.lineno, "JSONDecoder"
            case ast.ImportFrom(module="json" | "json.decoder"):
                yield node.lineno, "import"


def test_a_parser_of_json_is_found():
    for text in ("json.loads(a)", "json.load(a)", "map(json.loads, a)", "json.JSONDecoder()"):
        assert len([*find_parsers(text)]) == 1
    assert [*find_parsers("from json import loads")] == [(1, "import")]
    assert [*find_parsers("import json\njson.dumps(a)\nload_json(a)")] == []


def test_json_of_others_is_parsed_by_load_json():
    found = set()
    for path in (path for folder in PACKAGES.values() for path in sorted(folder.rglob("*.py"))):
        file = str(path.relative_to(ROOT))
        if file in PARSERS:
            continue
        for line, what in find_parsers(path.read_text(encoding="utf-8")):
            assert (file, what) in OWN_TEXTS, f"{file}:{line}: use load_json for {what}"
            found.add((file, what))
    assert found == OWN_TEXTS, "what is allowed is still there"
