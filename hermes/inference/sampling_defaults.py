"""The sampling that a checkpoint asks for in its generation_config.json."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hermes.errors import HermesError
from hermes.inference.sampling import Sampling

__all__ = ["choose_sampling"]

FILE = "generation_config.json"
FIELDS = ("temperature", "top_k", "top_p", "min_p")
# What else changes which tokens are sampled, with the value that changes nothing.
UNSUPPORTED = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "top_h": 1.0,
    "penalty_alpha": 0.0,
    "num_beams": 1,
    "bad_words_ids": [],
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "sequence_bias": {},
}
# What is another option's name with us.
OWN_NAMES = {"no_repeat_ngram_size": "no_repeat_ngram", "bad_words_ids": "ban"}


def choose_sampling(config: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[Sampling, str]:
    """Choose each value as given, else as in a generation_config.json, else Sampling's own.

    given: temperature, top_k, top_p and min_p, None where the file decides; of other settings only
    whether they are given, for then it is no matter what the file asks for. Under do_sample: false
    the file's temperature is 0. -> the sampling, and a sentence with what the file decided and what
    it asks for in vain, "" for nothing. Raises HermesError.
    """
    wanted = {name: config[name] for name in FIELDS if config.get(name) is not None}
    if config.get("do_sample") is False:
        wanted["temperature"] = 0.0
    taken = {name: value for name, value in wanted.items() if given.get(name) is None}
    for name, value in taken.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise HermesError(f"{FILE}: {name} is {value!r}; give --{name.replace('_', '-')}")
    if "top_k" in taken:
        taken["top_k"] = int(taken["top_k"])
    own: dict[str, Any] = {name: given[name] for name in FIELDS if given.get(name) is not None}
    sampling = replace(Sampling(), **own)
    if own.get("temperature") == 0:  # the likeliest token, whatever the file says
        return sampling, ""
    try:
        sampling = replace(sampling, **taken)
    except HermesError as error:
        option = str(error).split()[0].replace("_", "-")
        raise HermesError(f"{FILE}: {error}; give --{option}") from None
    return sampling, _describe(config, taken, given)


def _describe(config: Mapping[str, Any], taken: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    shown = [f"{name} {value:g}" for name, value in taken.items()]
    vain = [
        f"{name} {config[name]!r:.40}"
        for name, neutral in UNSUPPORTED.items()
        if config.get(name) not in (None, neutral) and given.get(OWN_NAMES.get(name, name)) is None
    ]
    words = [f"sampling with {', '.join(shown)} of the checkpoint's {FILE}"] if shown else []
    if vain:
        words.append(f"{FILE} asks for {', '.join(vain)}, which is not applied")
    return "; ".join(words)
