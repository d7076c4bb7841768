"""The sampling that a checkpoint asks for in its generation_config.json."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hermes.errors import HermesError
from hermes.inference.sampling import Sampling

__all__ = ["choose_sampling"]

FILE = "generation_config.json"
# The file's names, and the fields of Sampling that they are.
DISTRIBUTION = {name: name for name in ("temperature", "top_k", "top_p", "min_p", "typical_p")}
# What acts at temperature 0, too.
PENALTIES = {
    "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram",
    "min_new_tokens": "min_tokens",
}
NAMES = DISTRIBUTION | PENALTIES
FIELDS = tuple(NAMES.values())
# What else changes which tokens are sampled, with the value that changes nothing.
UNSUPPORTED = {
    "encoder_repetition_penalty": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "top_h": 1.0,
    "penalty_alpha": 0.0,
    "min_length": 0,
    "num_beams": 1,
    "bad_words_ids": [],
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "sequence_bias": {},
}
# What is another option's name with us.
OWN_NAMES = {"bad_words_ids": "ban"}
WHOLE = ("top_k", "no_repeat_ngram", "min_tokens")


def choose_sampling(config: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[Sampling, str]:
    """Choose each value as given, else as in a generation_config.json, else Sampling's own.

    given: by the names of Sampling, None where the file decides; of settings besides FIELDS only
    whether they are given, for then it is no matter what the file asks for. Under do_sample: false
    the file's temperature is 0. At temperature 0 the file's penalties hold, as in transformers. ->
    the sampling, and a sentence with what the file decided and what it asks for in vain, "" for
    nothing. Raises HermesError.
    """
    own: dict[str, Any] = {name: given[name] for name in FIELDS if given.get(name) is not None}
    is_greedy = own.get("temperature") == 0  # then the rest of the distribution is no matter
    taken: dict[str, Any] = {
        name: config[written]
        for written, name in (PENALTIES if is_greedy else NAMES).items()
        if config.get(written) is not None and name not in own
    }
    if config.get("do_sample") is False and "temperature" not in own:
        taken["temperature"] = 0.0
    for name, value in taken.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise HermesError(f"{FILE}: {name} is {value!r}; give --{name.replace('_', '-')}")
        if name in WHOLE and float(value).is_integer():
            taken[name] = int(value)
    try:
        sampling = replace(Sampling(), **own)
        sampling = replace(sampling, **taken)
    except HermesError as error:
        if (name := str(error).split()[0]) not in taken:
            raise
        raise HermesError(f"{FILE}: {error}; give --{name.replace('_', '-')}") from None
    vain = {} if is_greedy else config
    return sampling, _describe(vain, taken, given)


def _describe(config: Mapping[str, Any], taken: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    neutral_too = DISTRIBUTION.values()
    shown = [
        f"{name} {value:g}"
        for name, value in taken.items()
        if name in neutral_too or value != getattr(Sampling(), name)
    ]
    vain = [
        f"{name} {config[name]!r:.40}"
        for name, neutral in UNSUPPORTED.items()
        if config.get(name) not in (None, neutral) and given.get(OWN_NAMES.get(name, name)) is None
    ]
    words = [f"sampling with {', '.join(shown)} of the checkpoint's {FILE}"] if shown else []
    if vain:
        words.append(f"{FILE} asks for {', '.join(vain)}, which is not applied")
    return "; ".join(words)
