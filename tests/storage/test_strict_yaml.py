"""YAML: one reader with bounds."""

import ast
import random
import time

import pytest

from hermes.errors import HermesError
from hermes.storage.strict_yaml import read_text_mapping, read_value_mapping
from tests.packages import PACKAGES

BOMB = "a: &a [x, x]\n" + "".join(
    f"{one}: &{one} [*{before}, *{before}]\n"
    for before, one in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE = {
    "a bomb of aliases": (BOMB, "aliases are not supported; write the value out"),
    "python": ("a: !!python/object/apply:os.system [id]\n", "tags are not supported"),
    "a date that is none": ("x: !!timestamp abc\n", "tags are not supported"),
    "a boolean that is none": ("x: !!bool q\n", "tags are not supported"),
    "nesting": ("a: " + "[" * 100_000, "nested more than 8 deep"),
    "twice": ("a: 1\na: 2\n", "key 'a' is given twice"),
    "a list as a key": ("? [a]\n: b\n", "a key must be a word"),
    "half": ('a: "b', "not YAML: "),
    "no text": ("a: \x07\n", "not YAML: "),
    "nothing": ("", "expected a mapping of 'key: value', but it is empty"),
    "a word": ("word\n", "expected a mapping of 'key: value', but it holds something else"),
}


def written(folder, text):
    path = folder / "a.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_what_could_do_harm_is_refused_at_once(tmp_path, name):
    text, message = HOSTILE[name]
    began = time.thread_time()
    with pytest.raises(HermesError) as refused:
        read_value_mapping(written(tmp_path, text))
    assert str(refused.value).startswith(str(tmp_path / "a.yaml"))
    assert message in str(refused.value)
    assert time.thread_time() - began < 2


def test_values_are_what_they_look_like(tmp_path):
    text = (
        "lr: 1e-4\nhalf: .5\nn: -3\nbig: 18446744073709551615\non: yes\nt: True\nnone: ~\nempty:\n"
        "date: 2001-99-99\nclock: 12:30\noctal: 010\nquoted: '7'\nlist: [1, a, 2.0]\n"
        f"digits: {'9' * 5000}\nnan: .nan\n"
    )
    assert read_value_mapping(written(tmp_path, text)) == {
        "lr": 1e-4, "half": 0.5, "n": -3, "big": 2**64 - 1, "on": "yes", "t": True, "none": None,
        "empty": None, "date": "2001-99-99", "clock": "12:30", "octal": "010", "quoted": "7",
        "list": [1, "a", 2.0], "digits": "9" * 5000, "nan": ".nan",
    }  # fmt: skip


def test_options_stay_text_and_an_empty_file_has_none(tmp_path):
    assert read_text_mapping(written(tmp_path, "lr: 1e-4\non: no\nx: null\n")) == {
        "lr": "1e-4", "on": "no", "x": None,
    }  # fmt: skip
    assert read_text_mapping(written(tmp_path, "# nothing\n")) == {}


WHOLE = """# written by hermes
lr: 0.0003  # default
data: ["a.txt", "b \\u00e9.txt"]
set:
  optimizer.beta2: 0.98
sessions:
  - {step: 0, backend: "torch", device: "cpu"}
"""
PIECES = (
    "",
    "&a ",
    "*a",
    "!!int ",
    "[",
    "{",
    "}",
    "\n",
    "\t",
    "- ",
    ": ",
    "9" * 5000,
    "'",
    '"',
    "\0",
)


def mutate(choose, text):
    for _ in range(choose.randint(1, 4)):
        at, length = choose.randrange(len(text) + 1), choose.randrange(4)
        piece = choose.choice((*PIECES, chr(choose.randrange(1, 0x3000))))
        text = text[:at] + piece + text[at + length :]
    return text


@pytest.mark.parametrize("count", [300, pytest.param(5_000, marks=pytest.mark.long)])
def test_a_mutated_file_is_read_or_refused_in_one_line(tmp_path, count):
    choose, path, refused = random.Random(count), tmp_path / "a.yaml", list[str]()
    for _ in range(count):
        path.write_text(mutate(choose, WHOLE), encoding="utf-8", errors="surrogatepass")
        for read in (read_text_mapping, read_value_mapping):
            try:
                read(path)
            except HermesError as error:
                refused.append(str(error))
    assert all(said.startswith(str(path)) and "\n" not in said for said in refused)
    assert count / 10 < len(refused) < 2 * count
    print(f"{2 * count} mutated YAML files: {len(refused)} refused in one line each")


def test_no_other_module_reads_yaml():
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                found = isinstance(node, ast.Import) and "yaml" in [n.name for n in node.names]
                found = found or (isinstance(node, ast.ImportFrom) and node.module == "yaml")
                assert not found or path.name == "strict_yaml.py", f"{package}: {path}"
