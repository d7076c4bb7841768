"""What Rust prints of a panic is on no standard error; what others print meanwhile is."""

import json
import os
import subprocess
import sys

import pytest

from hermes.errors import DataError
from hermes.tokenizer import Tokenizer
from hermes.tokenizer.bytelevel import BYTE_CHARACTERS

SPLIT = {  # Oniguruma gives up where many x are followed by no y
    "type": "Split",
    "pattern": {"Regex": "(x+x+)+y"},
    "behavior": "Isolated",
    "invert": False,
}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
VOCABULARY = {character: number for number, character in enumerate(BYTE_CHARACTERS)}
SLOW = {
    "version": "1.0",
    "added_tokens": [
        {"id": len(VOCABULARY), "content": "<|eos|>", "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    ],
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT, BYTES]},
    "decoder": BYTES,
    "model": {"type": "BPE", "vocab": VOCABULARY, "merges": []},
}
SENTENCE = (
    "the tokenizer cannot encode a text, on which a regular expression of its tokenizer.json takes "
    "too many steps: Onig: Regex search error: retry-limit-in-match over"
)
WRITING = """
import os, subprocess, sys, tempfile, threading
from hermes.rust_panics import drop_panics
class PanicException(BaseException): pass
def panic():
    os.write(2, b"before\\n")
    os.write(2, b"\\nthread '<unnamed>' (5) panicked at lib.rs:1:2:\\nbad\\nbacktrace:\\n  0: a\\n")
    raise PanicException("bad")
"""
BLOCKS = {
    "a panic": ("try:\n  with drop_panics(): panic()\nexcept PanicException: pass", "before\n"),
    "nothing": ("with drop_panics(): os.write(2, b'thread of words\\n')", "thread of words\n"),
    "an error": (
        "try:\n  with drop_panics(): os.write(2, b'words\\n'); 1 / 0\nexcept Exception: pass",
        "words\n",
    ),
    "a block in a block": (
        "try:\n  with drop_panics():\n    with drop_panics(): panic()\nexcept PanicException: pass",
        "before\n",
    ),
    "again and again": (
        "for k in range(300):\n  with drop_panics(): os.write(2, b'%d ' % k)",
        "".join(f"{k} " for k in range(300)),
    ),
    "a forked process": (
        "with drop_panics():\n  if not os.fork(): os.write(2, b'child\\n'); os._exit(0)\nos.wait()",
        "child\n",
    ),
    "many threads": (
        "def run():\n  for _ in range(50):\n    with drop_panics(): os.write(2, b'x')\n"
        "threads = [threading.Thread(target=run) for _ in range(8)]\n"
        "[one.start() for one in threads]; [one.join() for one in threads]",
        "x" * 400,
    ),
    "a block for which there was no file": (
        "tempfile.tempdir = '/proc/none'\nwith drop_panics(): pass\ntempfile.tempdir = None\n"
        "try:\n  with drop_panics(): panic()\nexcept PanicException: pass",
        "before\n",
    ),
    "no standard error": ("os.close(2)\nwith drop_panics(): print('done')", ""),
}


@pytest.mark.parametrize("what", BLOCKS)
def test_a_block_passes_on_all_but_a_panic(what):
    code, expected = BLOCKS[what]
    words = [sys.executable, "-c", WRITING + code]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, expected)


def test_a_pattern_that_takes_too_long_is_one_sentence(tmp_path, capfd):
    tokenizer = Tokenizer.from_json(json.dumps(SLOW))
    assert tokenizer.decode(tokenizer.encode("xxxy a")) == "xxxy a"
    with pytest.raises(DataError) as error:
        tokenizer.encode("x" * 60)
    assert str(error.value) == SENTENCE
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["prepare", "--data", "text.txt", "--tokenizer", "tokenizer.json", "--output", "out"],
        ["train", "--data", "text.txt", "--tokenizer", "tokenizer.json", "--backend", "numpy"],
    ],
    ids=lambda words: words[0],
)
def test_a_command_says_it_once_and_shows_no_panic(tmp_path, arguments):
    (tmp_path / "tokenizer.json").write_text(json.dumps(SLOW))
    (tmp_path / "text.txt").write_text("xa " * 50 + "x" * 60)
    done = subprocess.run(
        [sys.executable, "-m", "hermes", *arguments],
        cwd=tmp_path,
        env=os.environ | {"RUST_BACKTRACE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "panicked" not in done.stderr
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("Error: ")]
    assert "takes too many steps" in line
    assert "Traceback" not in done.stderr
