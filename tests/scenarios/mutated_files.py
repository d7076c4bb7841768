"""Damages files that hermes reads as JSON at random, and reads them.

    python -m tests.scenarios.mutated_files [--count 300] [--seed 0] [--kind NAME]

Each reading must end: with what was read, or with one sentence that is an error of hermes. Files
whose hash is in a manifest are entered there anew, as whoever damages a file on purpose would.
"""

import argparse
import copy
import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from hermes.checkpoint import open_checkpoint
from hermes.checkpoint.manifest import MANIFEST
from hermes.data import read_documents
from hermes.data.conversations import read_conversations
from hermes.data.document_reader import TextFormat
from hermes.data.preferences import read_pairs
from hermes.data.prepared import Part, PreparationOptions, merge_parts, prepare_tokens
from hermes.data.prepared.documents import PreparedDocuments
from hermes.data.prepared.verifying import verify_prepared
from hermes.data.run_data import DataRecord, RunData, SessionRecord, SourceRecord
from hermes.data.tracing import RunTrace
from hermes.errors import HermesError
from hermes.inference.chat_session import ChatSession
from hermes.inference.prompts_file import read_prompt_records
from hermes.interop.convert import convert
from hermes.interop.open_model import open_model
from hermes.tokenizer import Tokenizer
from hermes.training.metrics_file import read_metrics
from hermes.training.samples import read_prompts, read_samples
from tests.checkpoint.support import resealed
from tests.data.support import encoder
from tests.finetuning.support import TEXT, small_checkpoint, small_tokenizer, some_chats, some_pairs

VALUES = (
    *(None, True, False, 0, -1, 2, 7, 2**31, 2**63, 10**30, 0.5, -1e308, float("nan")),
    *("", "a", "../a", "/etc/passwd", "a" * 9999, "\x00", "\ud800", "\U0010ffff", "<u2", "O"),
    *([], {}, [[]], [None], [1, 2], ["a"], {"a": 1}, {"role": 5, "content": []}),
)  # fmt: skip
TEXTS = (
    *("[" * 100_000, '{"a":' * 100_000, "1" * 5_000, "1e999", "NaN", "-0", "\ufeff", "\x00", "\n"),
    *(",", "}", '"', '\\ud800"', '"tokens": 1, ', "\u2028", "\udcff"),
)  # fmt: skip
LONGEST = 20  # seconds that one reading may take on a machine that does much else


@dataclass(frozen=True)
class Kind:
    """A kind of file. read: given the file that was damaged, uses what is in it."""

    path: Path
    read: Callable[[Path], object]
    is_lines: bool = False  # JSON on each line


def mutate_value(value: Any, choose: random.Random) -> Any:
    """Damage a copy of a JSON value in one to three places."""
    changed = copy.deepcopy(value)
    for _ in range(choose.choice((1, 1, 2, 3))):
        node = changed
        while isinstance(node, dict | list) and node:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = choose.choice(keys)
            if isinstance(node[key], dict | list) and node[key] and choose.random() < 0.8:
                node = node[key]
                continue
            if choose.random() < 0.2:
                del node[key]
            elif isinstance(node, dict) and choose.random() < 0.1:
                node[choose.choice(("a", "", "\x00", "version"))] = choose.choice(VALUES)
            else:
                node[key] = copy.deepcopy(choose.choice(VALUES))
            break
    return changed


def mutate_text(text: str, choose: random.Random) -> str:
    """Damage a text: a piece goes in, out, or both."""
    at = choose.randrange(len(text) + 1)
    return text[:at] + choose.choice(TEXTS) + text[at + choose.randrange(4) :]


def mutate(kind: Kind, text: str, choose: random.Random) -> bytes:
    """The damaged text of a file of a kind."""
    if choose.random() < 0.3:
        return mutate_text(text, choose).encode("utf-8", "surrogatepass")
    if not kind.is_lines:
        return json.dumps(mutate_value(json.loads(text), choose)).encode()
    lines = [json.loads(line) for line in text.splitlines()]
    return "".join(json.dumps(line) + "\n" for line in mutate_value(lines, choose)).encode()


def read_checkpoint(path: Path) -> None:
    """Open a checkpoint one of whose files was damaged and entered in its manifest anew."""
    folder = path.parent
    files = {
        file.name: {"size": file.stat().st_size, "sha256": sha256(file.read_bytes()).hexdigest()}
        for file in folder.iterdir()
        if file.name != MANIFEST
    }
    resealed(folder, files=files)
    _ = open_checkpoint(folder).state.params["model.norm.weight"]
    open_model(folder)


def read_folder(path: Path) -> None:
    """Open the model in whose folder a file was damaged, and its tokenizer."""
    model = open_model(path.parent)
    _ = model.params["model.norm.weight"]
    Tokenizer.load(path.parent).encode(TEXT)


def read_prepared(path: Path) -> None:
    """Use prepared tokens in every way: read, find documents, verify."""
    documents = PreparedDocuments(path.parent)
    for number in range(min(len(documents), 3)):
        documents.read(number)
    verify_prepared(path.parent)


def read_trace(path: Path) -> None:
    """Find the samples of some steps of a run."""
    trace = RunTrace(path.parent)
    for step in (1, 2):
        trace.list_windows(step)


def read_chats(path: Path) -> None:
    """Encode the conversations of a file, which also renders them by a template."""
    made = encoder()
    for conversation in read_conversations(path):
        made.encode(conversation)


def read_prompt_file(path: Path) -> None:
    """Encode each prompt of a file."""
    for record in read_prompt_records(path):
        small_tokenizer().encode(record.prompt)


def read_sample_prompts(path: Path) -> None:
    """Encode each prompt of a file of samples' prompts."""
    for prompt in read_prompts(path):
        small_tokenizer().encode(prompt)


def make_kinds(folder: Path) -> dict[str, Kind]:
    """Sound files of every kind, in folders of their own."""
    kinds = {}

    def write(name: str, text: str) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    for name, records, read in (
        ("texts.jsonl", [{"text": TEXT, "n": 1}] * 4, lambda p: list(read_documents(p))),
        ("chats.jsonl", some_chats(3), read_chats),
        ("messages.jsonl", list_dialogues()[:2], read_chats),
        ("calls.jsonl", list_dialogues()[2:], lambda p: list(read_conversations(p))),
        ("pairs.jsonl", some_pairs(3), lambda p: list(read_pairs(p))),
        ("prompts.jsonl", [{"prompt": TEXT, "seed": 1, "stop": ["a"]}] * 3, read_prompt_file),
        ("samples/prompts.jsonl", [{"prompt": TEXT}] * 3, read_sample_prompts),
        ("run/metrics.jsonl", [{"step": n, "loss": 1.5} for n in range(1, 5)],
         lambda p: read_metrics(p.parent, skip_odd=True)),
        ("run/samples.jsonl", [{"step": n, "prompt": "a", "text": "b"} for n in range(1, 4)],
         lambda p: read_samples(p.parent)),
    ):  # fmt: skip
        path = write(name, "".join(json.dumps(record) + "\n" for record in records))
        kinds[name] = Kind(path, read, is_lines=True)
    write("a/text.txt", TEXT * 90)
    write("a/more.txt", TEXT * 40)
    options = PreparationOptions(TextFormat(documents="lines"), shard_size=3000)
    source = folder / "a"
    prepare_tokens(source, small_tokenizer(), folder / "prepared", options=options)
    kinds["prepared tokens"] = Kind(folder / "prepared" / MANIFEST, read_prepared)
    begun = folder / "begun"
    for part in (1, 2):
        prepare_tokens(source, small_tokenizer(), begun, options=options, part=Part(part, 2))
    kinds["plan"] = Kind(begun / "plan.json", lambda path: merge_begun(path.parent))
    kinds["plan, again"] = Kind(
        begun / "plan.json",
        lambda path: prepare_tokens(source, small_tokenizer(), path.parent, options=options),
    )
    for name in ("group-00000.json", "00000-00000.json"):
        kinds[name] = Kind(begun / name, lambda path: merge_begun(path.parent))
    record = DataRecord("f" * 64, 8, 1, (make_source(folder),))
    (folder / "traced").mkdir()
    RunData((record,), (SessionRecord(0, 0, 2, 1, 1, 9),)).write(folder / "traced")
    kinds["data of a run"] = Kind(folder / "traced" / "data.json", read_trace)
    checkpoint = small_checkpoint(folder / "checkpoint")
    for name in ("progress.json", "config.json", "tokenizer_config.json"):
        kinds[f"checkpoint, {name}"] = Kind(checkpoint / name, read_checkpoint)
    convert(checkpoint, folder / "hf", to="hf")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        kinds[f"Hugging Face, {name}"] = Kind(folder / "hf" / name, read_folder)
    names = list_tensor_names(folder / "hf")
    write("shards/model.safetensors.index.json", json.dumps({"weight_map": names}))
    for file in (folder / "hf").iterdir():
        name = "part.safetensors" if file.suffix == ".safetensors" else file.name
        (folder / "shards" / name).write_bytes(file.read_bytes())
    index = folder / "shards/model.safetensors.index.json"
    kinds["index of shards"] = Kind(index, read_folder)
    chat = ChatSession.__new__(ChatSession)  # without a model, which loading does not look at
    talk = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    kinds["conversation"] = Kind(write("talk.json", json.dumps(talk)), chat.load)
    return kinds


def merge_begun(folder: Path) -> None:
    """Merge the parts of a copy: what is whole has no parts any more."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as copied:
        for file in folder.iterdir():
            (Path(copied) / file.name).write_bytes(file.read_bytes())
        merge_parts(copied)


def list_dialogues() -> list[dict[str, Any]]:
    """Conversations in the forms that have lists."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    shared = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    called = [turns[0], {"role": "assistant", "content": None, "tool_calls": [call]}]
    return [{"messages": turns}, {"conversations": shared}, {"messages": called, "tools": [call]}]


def make_source(folder: Path) -> SourceRecord:
    """The record of the prepared tokens as a run's only source."""
    prepared = folder / "prepared"
    facts = json.loads((prepared / MANIFEST).read_text())
    windows = facts["tokens"] // 8 - 1
    return SourceRecord(
        (str(prepared),), facts["fingerprint"], facts["tokens"], facts["documents"], windows, 0,
        index=str(prepared),
    )  # fmt: skip


def list_tensor_names(folder: Path) -> dict[str, str]:
    """The weight map of the only file of a folder, under another name."""
    params = open_model(folder).params
    return dict.fromkeys(params, "part.safetensors")


@dataclass
class Found:
    """What became of the damaged files."""

    read: Counter[str]
    refused: Counter[str]
    faults: list[str]


def judge(name: str, kind: Kind, count: int, seed: int, found: Found) -> None:
    """Damage a file `count` times, and put it back."""
    choose, sound = random.Random(f"{name} {seed}"), kind.path.read_bytes()
    files = {p: p.read_bytes() for p in kind.path.parent.iterdir() if p.is_file()}
    text = sound.decode("utf-8")
    kind.read(kind.path)  # which is sound as it is
    for number in range(count):
        restore(files)
        kind.path.write_bytes(mutate(kind, text, choose))
        began = time.process_time()
        try:
            kind.read(kind.path)
            found.read[name] += 1
        except HermesError as error:
            found.refused[name] += 1
            if "\n" in str(error) or not str(error):
                found.faults.append(f"{name} {number}: more than a sentence: {error!s:.300}")
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{at.filename}:{at.lineno}"
            found.faults.append(f"{name} {number}: {type(error).__name__} {error!s:.99} at {where}")
        if time.process_time() - began > LONGEST:
            found.faults.append(f"{name} {number}: took {time.process_time() - began:.0f} s")
    restore(files)


def restore(files: dict[Path, bytes]) -> None:
    """Make a folder hold these files as they were, and no others."""
    for path in {p for file in files for p in file.parent.iterdir() if p.is_file()} - files.keys():
        path.unlink()
    for path, data in files.items():
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)


def judge_all(count: int, seed: int, only: str | None = None) -> Found:
    """Damage each kind of file `count` times."""
    found = Found(Counter(), Counter(), [])
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in make_kinds(Path(folder)).items():
            if only in (None, name):
                judge(name, kind, count, seed, found)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Say what came of it; the exit code is 1 where a reading ended in anything else."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300, help="of each kind  [default: 300]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind")
    asked = parser.parse_args(arguments)
    found = judge_all(asked.count, asked.seed, asked.kind)
    for name in sorted(found.read | found.refused):
        print(f"{name}: {found.refused[name]} refused, {found.read[name]} read")
    for fault in found.faults:
        print(fault)
    total = found.read.total() + found.refused.total()
    print(f"{total} damaged files: {found.refused.total()} refused, {len(found.faults)} faults")
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
