"""Files of users and of strangers: of bounded size and depth, and pipes where they may be."""

import os
import subprocess
from pathlib import Path

import pytest

from hermes.errors import DataError, HermesError
from hermes.inference.grammar import read_json_schema
from hermes.inference.prompts_file import read_prompt_records
from hermes.storage.reading import read_bounded
from hermes.tokenizer import Tokenizer
from hermes.training.samples import read_prompts, read_samples

DEEP = b"[" * 100_000


def test_a_file_is_read_up_to_its_bound_and_a_pipe_too(tmp_path):
    file, pipe = tmp_path / "file", tmp_path / "pipe"
    file.write_bytes(b"x" * 100)
    assert read_bounded(file, 100) == b"x" * 100
    for path, most in ((file, 99), ("/dev/zero", 1_000)):
        with pytest.raises(DataError, match=f"has more than {most:,} bytes, which are too many"):
            read_bounded(path, most)
    os.mkfifo(pipe)
    with subprocess.Popen(["bash", "-c", f"printf 'abc' > {pipe}"]):
        assert read_bounded(pipe) == b"abc"


def test_a_device_without_end_is_read_by_nobody():
    for read in (read_json_schema, read_prompt_records, Tokenizer.load):
        with pytest.raises(HermesError, match="/dev/zero"):
            read(Path("/dev/zero"))


def test_lines_nested_deeply_are_named(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n' + DEEP + b"\n")
    for read in (read_prompt_records, read_prompts):
        with pytest.raises(HermesError, match=r'lines.jsonl:2: expected {"prompt": "..."}'):
            read(path)
    path.rename(tmp_path / "samples.jsonl")
    assert read_samples(tmp_path) == []
