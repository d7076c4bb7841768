"""The tokenizer of a run from scratch: a given one, or one trained on the run's data."""

from pathlib import Path

from hermes.arguments import Call
from hermes.data import read_documents
from hermes.data.bad_records import BadRecords
from hermes.data.mixture import strip_weights
from hermes.data.prepared import is_prepared
from hermes.distributed.agreement import all_or_none
from hermes.errors import HermesError
from hermes.interop.hub import load_tokenizer
from hermes.tokenizer import Tokenizer, train_tokenizer
from hermes.training.host import RunHost
from hermes.training.options import list_files, make_text_format

__all__ = ["choose_tokenizer", "save_new_tokenizer"]


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
        return load_tokenizer(given) if given and call.has_given("tokenizer") else None
    if not call["train_tokenizer"]:
        return load_tokenizer(given) if given else _find_prepared(call)
    if given and Path(given).exists():
        if call["resume"]:  # an earlier attempt trained it, and was stopped before it saved
            return load_tokenizer(given)
        raise HermesError(f"{given} is there already; leave --train-tokenizer out to use it")
    group = host.process_group
    made = all_or_none(group, lambda: _train(call, host) if host.leads else None)
    if group.rank_info.world_size == 1:
        return made
    return Tokenizer.from_json(group.all_gather_text(made.to_json() if made else "")[0])


def _find_prepared(call: Call) -> Tokenizer | None:
    """The tokenizer that the data was prepared with; None where it is not prepared."""
    for name in strip_weights(list_files(call)):
        if is_prepared(Path(name)):
            return Tokenizer.load(name)
    return None


def _train(call: Call, host: RunHost) -> Tokenizer:
    host.tell("training a tokenizer on the data")
    bad = BadRecords(call["max_bad_records"]) if call["skip_bad_records"] else None
    found = read_documents(strip_weights(list_files(call)), **vars(make_text_format(call)), bad=bad)
    made = train_tokenizer((document.text for document in found), vocab_size=call["vocab_size"])
    for warning in made.training.warnings if made.training else ():
        host.tell(f"Warning: {warning}")
    return made


def save_new_tokenizer(call: Call, tokenizer: Tokenizer | None) -> None:
    """Save a tokenizer that was trained for the run, where the call names a file for it."""
    path = call["tokenizer"]
    if tokenizer is not None and call["train_tokenizer"] and isinstance(path, str | Path):
        tokenizer.save(path)
