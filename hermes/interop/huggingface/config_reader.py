"""Reads a config.json into a specification, or refuses it with what MAL cannot express.

Where a file leaves a field out, the default of Hugging Face's configuration class applies.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hermes.errors import SpecError
from hermes.interop.huggingface.families import FAMILIES, HERMES
from hermes.interop.huggingface.fields import Fields
from hermes.interop.huggingface.unsupported import refuse_unknown, refuse_unsupported
from hermes.mal import loads
from hermes.spec import ModelSpec

__all__ = ["ReadConfig", "read_any_config", "read_config"]

# model_type of a model of pictures and text -> what holds where its text_config is silent.
_LLAMA: Mapping[str, Any] = {
    "model_type": "llama",
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
WRAPPERS: Mapping[str, Mapping[str, Any]] = {
    "gemma3": {"model_type": "gemma3_text"},
    "mistral3": {"model_type": "mistral"},
    "llava": _LLAMA,
    "llava_next": _LLAMA,
}


@dataclass(frozen=True)
class ReadConfig:
    """A config.json that has been read.

    family: its model_type, that of the language model in a wrapper. wrapped: whether it is one of
    pictures and text, whose other tensors are left out. notes: for the user.
    """

    spec: ModelSpec
    family: str
    wrapped: bool = False
    notes: tuple[str, ...] = ()


def read_config(config: Mapping[str, Any]) -> ModelSpec:
    """Read a config.json into a specification.

    Raises SpecError, naming the field, where MAL cannot express the model.
    """
    return read_any_config(config).spec


def read_any_config(config: Mapping[str, Any], ignore_fields: Iterable[str] = ()) -> ReadConfig:
    """Read a config.json, that of a language model inside a wrapper too.

    ignore_fields: names of fields that hermes does not know and that are to be passed over. Raises
    SpecError, also for one that is not there or that hermes knows.
    """
    wrapper = config.get("model_type")
    refuse_unsupported(config)
    if (
        isinstance(wrapper, str)
        and wrapper in WRAPPERS
        and isinstance(config.get("text_config"), dict)
    ):
        inner = {**WRAPPERS[wrapper], **config["text_config"]}
        found = read_any_config(inner, ignore_fields)
        note = (
            f"the language model of {wrapper} is read, as {found.family}; what is for pictures is "
            "left out"
        )
        return ReadConfig(found.spec, found.family, True, (*found.notes, note))
    if wrapper == HERMES:
        fields = Fields(config)
        spec = loads(fields.take_text("mal"), file="config.json: mal")
        return ReadConfig(spec, HERMES, notes=_note_earlier(config))
    family = FAMILIES.get(wrapper) if isinstance(wrapper, str) else None
    if family is None:
        refuse_unknown(wrapper)
    fields = Fields(config, ignore=ignore_fields)
    spec = family.read(fields)
    wanted = [name for name in ignore_fields if name not in fields.ignored]
    if wanted:
        raise SpecError(
            f"config.json: {wanted[0]!r} is not to be ignored: it is not in the file, or hermes "
            "knows what it means",
            (wanted[0],),
        )
    return ReadConfig(spec, family.model_type, notes=_note_ignored(fields) + _note_earlier(config))


def _note_ignored(fields: Fields) -> tuple[str, ...]:
    if not fields.ignored:
        return ()
    return (f"of config.json, {', '.join(sorted(fields.ignored))} was ignored, as you asked",)


def _note_earlier(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Note the fields that were ignored when the file was converted."""
    names = config.get("hermes_ignored_fields")
    if not isinstance(names, list) or not names:
        return ()
    return (f"{', '.join(map(str, names))} of the original's config.json was ignored",)
