"""Many prompts from a file of JSON lines; their texts to another, to which a later run adds."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hermes.errors import DataError, explain_os_error
from hermes.formatting import describe_surrogate
from hermes.inference.generated_text import GeneratedText
from hermes.inference.sampling_options import SAMPLING_OPTIONS
from hermes.storage.append_only import AppendOnlyFile
from hermes.storage.plain_json import load_json
from hermes.storage.reading import SMALL

__all__ = ["PromptRecord", "TextsFile", "read_prompt_records"]

OPTIONS = ("max_tokens", "seed", "stop", *SAMPLING_OPTIONS)
# Lists of strings, of which one alone may be given as it is, as OpenAI's API takes "stop"; its
# object of "logit_bias" is a list of ID=NUMBER here.
LISTS = ("stop", "ban", "dry_breaker", "logit_bias")
OWN_KEYS = ("index", "settings", "text", "tokens", "finish_reason", "logprobs")
# Options of `generate` that are the same for all lines.
OF_THE_FILE = (
    *("stop_id", "context_overflow", "json_schema", "num_samples", "num_beams", "length_penalty"),
    *("echo", "prompt_cache", "batch_size", "batch_invariant"),
)
MISSPELT = 0.88  # how alike a key and an option are that is hardly meant to be another key


@dataclass(frozen=True)
class PromptRecord:
    """A line of the file. options: values of its own. rest: what goes to the output as it is."""

    prompt: str
    options: Mapping[str, Any]
    rest: Mapping[str, Any]


def read_prompt_records(path: Path) -> list[PromptRecord]:
    """Read {"prompt": "..."} from each line, with options of its own and what is only passed on.

    Raises DataError, naming the line.
    """
    records = []
    try:
        with path.open("rb") as file:
            lines = iter(lambda: file.readline(SMALL), b"")  # of a device a line may be endless
            for number, line in enumerate(lines, start=1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    records.append(_parse_record(f"{path}:{number}", text))
    except (OSError, UnicodeDecodeError) as error:
        reason = explain_os_error(error) if isinstance(error, OSError) else "it is not UTF-8"
        raise DataError(f"cannot read {path}: {reason}") from error
    if not records:
        raise DataError(f'{path} has no prompt; write one {{"prompt": "..."}} on each line')
    return records


def _parse_record(where: str, line: str) -> PromptRecord:
    try:
        value = load_json(line)
        # An escape can spell half of a surrogate pair, which the output could not have in it.
        wrong = describe_surrogate(json.dumps(value, ensure_ascii=False))
    except ValueError:
        value, wrong = None, ""
    if not isinstance(value, dict) or not isinstance(value.get("prompt"), str):
        raise DataError(f'{where}: expected {{"prompt": "..."}}, found {line.strip()[:60]!r}')
    if wrong:
        raise DataError(f"{where}: {wrong}")
    if taken := next((key for key in OWN_KEYS if key in value), None):
        raise DataError(f"{where}: {taken!r} is a key of the output; give it another name")
    for key in value:
        if key in OF_THE_FILE:
            raise DataError(
                f"{where}: {key!r} is the same for all prompts; give it as an option of the "
                "command, or give the key another name"
            )
        if key not in OPTIONS and (close := get_close_matches(key, OPTIONS, 1, MISSPELT)):
            raise DataError(
                f"{where}: {key!r} is no option; write {close[0]!r}, or give the key another name"
            )
    # A null is the same as a key that is left out.
    options = {name: value[name] for name in OPTIONS if value.get(name) is not None}
    for name in LISTS:
        if isinstance(options.get(name), str):
            options[name] = [options[name]]
    if isinstance(bias := options.get("logit_bias"), dict):
        options["logit_bias"] = [f"{token}={number}" for token, number in bias.items()]
    rest = {name: v for name, v in value.items() if name not in OPTIONS and name != "prompt"}
    return PromptRecord(value["prompt"], options, rest)


class TextsFile:
    """The file of texts, a line for each in the order of the prompts.

    num_kept: whole lines that were there already. settings: names what made the texts; a file of
    others is refused, as is one of other prompts. Raises DataError, StorageError.
    """

    def __init__(
        self, path: Path, records: Sequence[PromptRecord], num_samples: int, settings: str
    ):
        self._path, self._records = path, records
        self._num_samples, self._settings = num_samples, settings
        self.kept: list[GeneratedText] = []
        self._file = AppendOnlyFile(path, self._keep_line)

    @property
    def num_kept(self) -> int:
        """Lines that were there already."""
        return len(self.kept)

    def _keep_line(self, line: bytes) -> bool:
        """Whether a line is whole, as the last one may not be after a kill."""
        try:
            value = load_json(line)
        except ValueError:
            value = None
        number = len(self.kept)
        where = f"{self._path}:{number + 1}"
        if not isinstance(value, dict) or not line.endswith(b"\n"):
            if line.endswith(b"\n"):
                raise DataError(f"{where}: not a line that this command wrote; give another file")
            return False
        index = number // self._num_samples
        record = self._records[index] if index < len(self._records) else None
        if record is None or value.get("index") != index or not _has_same_prompt(value, record):
            raise DataError(f"{where}: it has the text of another prompt; give another file")
        # Earlier versions named the options of the command alone.
        if value.get("settings") not in (self._settings, self._name_settings(record)):
            raise DataError(
                f"{where}: it was made with other options or another model; give another file"
            )
        text = GeneratedText(value["text"], value["tokens"], value["finish_reason"], value["seed"])
        self.kept.append(text)
        return True

    def append(self, number: int, text: GeneratedText) -> None:
        """Write the text of one sample of a prompt; samples of a prompt follow each other."""
        index = number // self._num_samples
        record = self._records[index]
        value = {
            "index": index,
            "prompt": record.prompt,
            **record.rest,
            **text.to_json(),
            "settings": self._name_settings(record),
        }
        self._file.append(json.dumps(value, ensure_ascii=False).encode("utf-8"))

    def _name_settings(self, record: PromptRecord) -> str:
        """The settings with those of the prompt's own line."""
        own = json.dumps(record.options, sort_keys=True)
        return f"{self._settings}-{hashlib.sha256(own.encode()).hexdigest()[:8]}"

    def close(self) -> None:
        """Make the lines safe, and close the file."""
        self._file.sync()
        self._file.close()


def _has_same_prompt(value: Mapping[str, Any], record: PromptRecord) -> bool:
    """Whether a line of the output is that prompt's, with what is passed on."""
    kept = {"prompt": record.prompt, **record.rest}
    return json.dumps({name: value.get(name) for name in kept}) == json.dumps(kept)
