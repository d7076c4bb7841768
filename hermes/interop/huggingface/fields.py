"""A config.json read field by field, so that nothing in it that changes the function is dropped.

What a family's reader does not take must be null or on the list of fields known to change nothing;
anything else is refused by its name.
"""

from collections.abc import Container, Mapping
from typing import Any, NoReturn

from hermes.errors import SpecError

__all__ = ["Fields"]

# Bookkeeping, training, text generation and numerics of any Hugging Face configuration.
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
# What every class takes for granted, with the values that mean so.
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
    """The fields of one configuration that are still to be accounted for.

    inside: the object within it, as "rope_scaling."; where: what errors call the file.
    """

    def __init__(self, values: Mapping[str, Any], inside: str = "", where: str = "config.json"):
        self._left = dict(values)
        self._inside = inside
        self._where = where

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def has(self, name: str) -> bool:
        """Whether a field is there and not null."""
        return self._left.get(name) is not None

    def take(self, name: str, default: Any = None) -> Any:
        """A field's value, null included; the default where the field is not there."""
        return self._left.pop(name, default)

    def take_size(self, name: str, default: int | None = None) -> int:
        """A whole number from 1; it must be there unless there is a default."""
        value = self._left.pop(name, None)
        value = default if value is None else value
        if value is None:
            raise SpecError(f"{self._where} has no {self._inside + name!r}", (name,))
        if type(value) is not int or value < 1:
            self._refuse_type(name, "a whole number from 1", value)
        return value

    def take_number(self, name: str) -> float | None:
        """A number, or None."""
        value = self._left.pop(name, None)
        if value is not None and type(value) not in (int, float):
            self._refuse_type(name, "a number", value)
        return None if value is None else float(value)

    def take_flag(self, name: str, default: bool) -> bool:
        """A field that is true or false, null meaning the default."""
        value = self._left.pop(name, None)
        if value is not None and type(value) is not bool:
            self._refuse_type(name, "true or false", value)
        return default if value is None else value

    def take_text(self, name: str, default: str | None = None) -> str:
        """A text; it must be there unless there is a default."""
        value = self._left.pop(name, None)
        value = default if value is None else value
        if not isinstance(value, str):
            self._refuse_type(name, "text", value)
        return value

    def take_object(self, name: str) -> dict[str, Any]:
        """An object; empty where it is null or left out."""
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
        """Refuse a field that says anything else; left out or null is well."""
        value = self._left.pop(name, None)
        if value is not None and value not in allowed:
            self.refuse(name, value)

    def refuse(self, name: str, value: object) -> NoReturn:
        """Raise for a field whose value MAL has no word for."""
        raise SpecError(
            f"{self._where}: {self._inside + name!r} is {_shorten(value)}, which MAL cannot say",
            (name,),
        )

    def finish(self, harmless: Container[str] = ()) -> None:
        """Refuse the first field left that may change the function."""
        for name, allowed in USUAL.items():
            self.allow_only(name, *allowed)
        for name, value in self._left.items():
            if value is not None and name not in HARMLESS and name not in harmless:
                self.refuse(name, value)


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
