"""Sample text while a run trains: what the model makes of a few prompts, step by step."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermes.errors import HermesError
from hermes.inference.decoding import collect_completion, generate_tokens
from hermes.inference.sampling import Sampling
from hermes.interface import Model
from hermes.storage.append_only import AppendOnlyFile
from hermes.storage.plain_json import load_json
from hermes.storage.reading import read_small
from hermes.tokenizer import Tokenizer
from hermes.training.events import Sample

__all__ = ["NAME", "SampleFile", "SampleMaker", "SampleOptions", "read_prompts", "read_samples"]

NAME = "samples.jsonl"


@dataclass(frozen=True)
class SampleOptions:
    """Which samples a run makes.

    every: steps between two times; 0 makes none. prompts: what they continue; one that is empty
    begins a text. tokens: the longest. Raises HermesError.
    """

    every: int = 0
    prompts: tuple[str, ...] = ("",)
    tokens: int = 64

    def __post_init__(self) -> None:
        if self.every < 0:
            raise HermesError(f"--sample-every must be at least 0, got {self.every}")
        if self.tokens < 1:
            raise HermesError(f"--sample-tokens must be at least 1, got {self.tokens}")


def read_prompts(path: Path) -> tuple[str, ...]:
    """Read prompts: each line of a file, or its field "prompt" in .jsonl. Raises HermesError."""
    try:
        text = read_small(path).decode("utf-8")
    except UnicodeDecodeError as error:
        at = f"byte {error.start}"
        raise HermesError(f"--sample-prompts {path}: it is not UTF-8 at {at}") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if path.suffix == ".jsonl":
        lines = [_read_prompt(path, number, line) for number, line in enumerate(lines, start=1)]
    if not lines:
        raise HermesError(f"--sample-prompts {path}: it has no prompt; write one on each line")
    return tuple(lines)


def _read_prompt(path: Path, number: int, line: str) -> str:
    try:
        prompt = load_json(line)["prompt"]
    except (ValueError, TypeError, KeyError):
        prompt = None
    if not isinstance(prompt, str):
        raise HermesError(
            f'--sample-prompts {path}:{number}: expected {{"prompt": "..."}}, found {line[:60]!r}'
        )
    return prompt


@dataclass(frozen=True)
class SampleMaker:
    """Makes the samples of a run. encode: a prompt's ids; vocab_size: ids that have a meaning.

    The random numbers are those of (seed, prompt, position), equal on every backend and rank.
    """

    options: SampleOptions
    tokenizer: Tokenizer
    encode: Callable[[str], list[int]]
    seed: int

    def make(self, model: Model, step: int) -> Iterator[Sample]:
        """Make one sample of each prompt. A prompt that leaves no room is an error."""
        room = model.spec.max_seq_len
        for number, prompt in enumerate(self.options.prompts):
            ids = self.encode(prompt)
            tokens = generate_tokens(
                model,
                ids,
                max_tokens=max(1, min(self.options.tokens, room - len(ids) + 1)),
                sampling=Sampling(),
                seed=self.seed,
                completion=number,
                stop=self.tokenizer.stop_ids,
                vocab_size=min(self.tokenizer.vocab_size, model.spec.vocab_size),
            )
            found = collect_completion(tokens)
            yield Sample(step, number, prompt, self.tokenizer.decode(found.tokens))


class SampleFile:
    """OUTPUT/samples.jsonl: a line for each sample, in the order of the steps."""

    def __init__(self, run: Path, *, after: int = 0):
        """Open the file, cut before the first sample of a step beyond `after`."""
        self._run = run
        self._open(after)

    def _open(self, after: int) -> None:
        self._file = AppendOnlyFile(self._run / NAME, lambda line: _find_step(line) <= after)

    def cut(self, after: int) -> None:
        """Drop the samples of steps beyond `after`."""
        self._file.close()
        self._open(after)

    def write(self, sample: Sample) -> None:
        """Append a sample."""
        record = {"step": sample.step, "prompt": sample.prompt, "text": sample.text}
        self._file.append(json.dumps(record, ensure_ascii=False).encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _find_step(line: bytes) -> float:
    try:
        return float(load_json(line)["step"])
    except (ValueError, TypeError, KeyError, OverflowError):
        return float("inf")


def read_samples(run: Path) -> list[dict[str, Any]]:
    """Every sample of a run, oldest first; a torn last line is left out."""
    path = run / NAME
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return [load_json(line) for line in lines if _find_step(line) != float("inf")]
