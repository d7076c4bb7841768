"""The tokenizer of a run from scratch: a given one, or one trained on the run's data."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermes.arguments import Call
from hermes.checkpoint.layout import TOKENIZER
from hermes.data import expand_paths, read_documents
from hermes.data.bad_records import BadRecords
from hermes.data.document_reader import TextFormat
from hermes.data.mixture import strip_weights
from hermes.data.prepared import is_prepared
from hermes.distributed.agreement import all_or_none
from hermes.errors import HermesError
from hermes.interop.hub import load_tokenizer
from hermes.tokenizer import Tokenizer, build_manifest, train_tokenizer
from hermes.tokenizer.manifest import find_misfit
from hermes.tokenizer.training import Settings, record_file
from hermes.training.host import RunHost
from hermes.training.options import list_files, make_text_format

__all__ = ["TokenizerTraining", "choose_tokenizer", "save_new_tokenizer"]


def choose_tokenizer(call: Call, host: RunHost, resuming: bool) -> Tokenizer | None:
    """The tokenizer that a call of `train` asks for; None for the run's own. Raises HermesError."""
    found = _find_tokenizer(call, host, resuming)
    if found is None or resuming or (call["eos"] is None and call["bos"] is None):
        return found
    return found.replace_roles(eos=call["eos"], bos=call["bos"])


def _find_tokenizer(call: Call, host: RunHost, resuming: bool) -> Tokenizer | None:
    given = call["tokenizer"]
    if isinstance(given, Tokenizer):
        return given
    if resuming:
        if call["force_retrain_tokenizer"]:
            host.tell("the run keeps its tokenizer; --force-retrain-tokenizer is for a new one")
        return load_tokenizer(given) if given and call.has_given("tokenizer") else None
    if not (call["train_tokenizer"] or call["force_retrain_tokenizer"]):
        return load_tokenizer(given) if given else _find_prepared(call)
    group = host.process_group
    made = all_or_none(group, lambda: _make_tokenizer(call, host) if host.leads else None)
    if group.rank_info.world_size == 1:
        return made
    told = group.all_gather_text(json.dumps([made.to_json(), made.manifest]) if made else "")[0]
    text, manifest = json.loads(told)
    shared = Tokenizer.from_json(text)
    return shared if manifest is None else shared.add_manifest(manifest)


def _make_tokenizer(call: Call, host: RunHost) -> Tokenizer:
    """The tokenizer that is there and fits, or a new one. Raises HermesError for one that does not.

    Without --tokenizer it is that of an earlier attempt at the run, in its folder.
    """
    files = expand_paths(strip_weights(list_files(call)))
    training = TokenizerTraining(make_text_format(call), Settings(vocab_size=call["vocab_size"]))
    given = call["tokenizer"]
    path = Path(given) if given else Path(call["output"]) / TOKENIZER
    if path.exists() and not call["force_retrain_tokenizer"]:
        there = load_tokenizer(path)
        misfit = training.find_misfit(there, files)
        if not misfit:
            host.tell(f"{path} fits the data and the settings, so no tokenizer is trained")
            return there
        if given and call["resume"] and there.manifest is None:
            return there  # an earlier version trained it, and was stopped before it saved
        if given:
            raise HermesError(
                f"{given} is there already and {misfit}; leave --train-tokenizer out to use it, or "
                "give --force-retrain-tokenizer to replace it"
            )
    host.tell("training a tokenizer on the data")
    bad = BadRecords(call["max_bad_records"]) if call["skip_bad_records"] else None
    made = training.train(files, bad)
    for line in bad.describe() if bad else ():
        host.tell(line)
    for warning in made.training.warnings if made.training else ():
        host.tell(f"Warning: {warning}")
    return made


@dataclass(frozen=True)
class TokenizerTraining:
    """A training on files: how they are read, and the settings."""

    text_format: TextFormat
    settings: Settings

    def train(self, files: Sequence[Path], bad: BadRecords | None = None) -> Tokenizer:
        """Train a tokenizer, with its manifest. bad: counts bad records; None to stop at the first.

        Raises DataError, and StorageError.
        """
        begun = time.monotonic()
        found = read_documents(files, **vars(self.text_format), bad=bad)
        made = train_tokenizer((document.text for document in found), **vars(self.settings))
        if bad is not None:
            bad.check()
        assert made.training is not None, "it has just been trained"
        record = build_manifest(
            made.training,
            made.fingerprint,
            map(record_file, files),
            reading=self._describe_reading(),
            seconds=time.monotonic() - begun,
        )
        return made.add_manifest(record)

    def find_misfit(self, tokenizer: Tokenizer, files: Sequence[Path]) -> str:
        """What keeps a tokenizer from being what `train` would make; '' where nothing does."""
        inputs = [] if tokenizer.manifest is None else [*map(record_file, files)]
        return find_misfit(tokenizer.manifest, self.settings, inputs, self._describe_reading())

    def _describe_reading(self) -> dict[str, Any]:
        """How files are read, as far as it changes their text."""
        return vars(self.text_format)


def _find_prepared(call: Call) -> Tokenizer | None:
    """The tokenizer that the data was prepared with; None where it is not prepared."""
    for name in strip_weights(list_files(call)):
        if is_prepared(Path(name)):
            return Tokenizer.load(name)
    return None


def save_new_tokenizer(call: Call, tokenizer: Tokenizer | None) -> None:
    """Save a tokenizer that was trained for the run, where the call names a file for it."""
    path = call["tokenizer"]
    trains = call["train_tokenizer"] or call["force_retrain_tokenizer"]
    if tokenizer is not None and trains and isinstance(path, str | Path):
        tokenizer.save(path)
