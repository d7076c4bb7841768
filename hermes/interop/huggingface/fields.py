"""Reads a config.json field by field, so that no field that changes the function is ignored.

A field that a family's reader does not take must be null or on the list of those known to be
harmless; any other is refused by name.
"""

from collections.abc import Container, Mapping
from typing import Any, NoReturn

from hermes.errors import SpecError

__all__ = ["Fields"]

# Fields of any configuration that concern bookkeeping, training, text generation or dtype.
_HARMLESS = """
    architectures model_type transformers_version torch_dtype dtype use_cache initializer_range
    _name_or_path name_or_path tokenizer_class prefix finetuning_task task_specific_params
    problem_type id2label label2id num_labels output_attentions output_hidden_states
    output_scores return_dict return_dict_in_generate torchscript use_bfloat16 tf_legacy_loss
    is_decoder chunk_size_feed_forward gradient_checkpointing pretraining_tp
    _attn_implementation attn_implementation _attn_implementation_autoset cache_implementation
    bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id decoder_start_token_id
    forced_bos_token_id forced_eos_token_id suppress_tokens begin_suppress_tokens bad_words_ids
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size num_return_sequences remove_invalid_values
    exponential_decay_length_penalty is_llama_config transformers.js_config unsloth_fixed
    unsloth_version
"""
HARMLESS = frozenset(_HARMLESS.split())
# Fields that must have their usual value, which every class here assumes.
USUAL: Mapping[str, tuple[object, ...]] = {
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "tie_encoder_decoder": (False,),
    "pruned_heads": ({},),
    "rope_interleaved": (False,),
    "use_bidirectional_attention": (False,),
    "use_mrope": (False,),
}


class Fields:
    """The fields of a configuration that have not been taken yet.

    inside: prefix of a nested object's fields, like "rope_scaling."; where: the file's name in
    errors.
    """

    def __init__(self, values: Mapping[str, Any], inside: str = "", where: str = "config.json"):
        self._left = dict(values)
        self._inside = inside
        self._where = where

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def has(self, name: str) -> bool:
        """Whether a field is present and not null."""
        return self._left.get(name) is not None

    def take(self, name: str, default: Any = None) -> Any:
        """Take a field's value, which may be null; the default if the field is missing."""
        return self._left.pop(name, default)

    def take_size(self, name: str, default: int | None = None) -> int:
        """Take an integer from 1; missing or null gives the default, or is refused without one."""
        value = self._left.pop(name, None)
        value = default if value is None else value
        if value is None:
            raise SpecError(f"{self._where} has no {self._inside + name!r}", (name,))
        if type(value) is not int or value < 1:
            self._refuse_type(name, "a whole number from 1", value)
        return value

    def take_number(self, name: str) -> float | None:
        """Take a number; None if missing or null."""
        value = self._left.pop(name, None)
        if value is not None and type(value) not in (int, float):
            self._refuse_type(name, "a number", value)
        return None if value is None else float(value)

    def take_flag(self, name: str, default: bool) -> bool:
        """Take a boolean; missing or null gives the default."""
        value = self._left.pop(name, None)
        if value is not None and type(value) is not bool:
            self._refuse_type(name, "true or false", value)
        return default if value is None else value

    def take_text(self, name: str, default: str | None = None) -> str:
        """Take a string; missing or null gives the default, or is refused without one."""
        value = self._left.pop(name, None)
        value = default if value is None else value
        if not isinstance(value, str):
            self._refuse_type(name, "text", value)
        return value

    def take_object(self, name: str) -> dict[str, Any]:
        """Take an object; empty if missing or null."""
        value = self._left.pop(name, None)
        if value is not None and not isinstance(value, dict):
            self._refuse_type(name, "an object", value)
        return value or {}

    def _refuse_type(self, name: str, wanted: str, value: object) -> NoReturn:
        raise SpecError(
            f"{self._where}: {self._inside + name!r} must be {wanted}, got {_shorten(value)}",
            (name,),
        )

    def allow_only(self, name: str, *allowed: object) -> None:
        """Take a field and refuse any value but these; missing or null is allowed."""
        value = self._left.pop(name, None)
        if value is not None and value not in allowed:
            self.refuse(name, value)

    def refuse(self, name: str, value: object) -> NoReturn:
        """Refuse a field whose value MAL cannot express."""
        raise SpecError(
            f"{self._where}: {self._inside + name!r} is {_shorten(value)}, which MAL cannot say",
            (name,),
        )

    def finish(self, harmless: Container[str] = ()) -> None:
        """Refuse the first remaining field that may change the function."""
        for name, allowed in USUAL.items():
            self.allow_only(name, *allowed)
        for name, value in self._left.items():
            if value is not None and name not in HARMLESS and name not in harmless:
                self.refuse(name, value)


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
