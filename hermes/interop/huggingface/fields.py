"""Reads a config.json field by field, so that no field that changes the function is ignored.

A field that a family's reader does not take must be null or on the list of those known to be
harmless; any other is refused by name, unless the user says that it is to be ignored.
"""

from collections.abc import Container, Iterable, Mapping
from typing import Any, NoReturn

from hermes.errors import SpecError

__all__ = ["HARMLESS", "Fields"]

# Fields of any configuration that concern bookkeeping, training, text generation, dtype, or heads
# other than the language model's, as published files and transformers' classes have them.
_HARMLESS = """
    architectures model_type transformers_version torch_dtype dtype use_cache initializer_range
    _name_or_path name_or_path tokenizer_class prefix finetuning_task task_specific_params
    problem_type id2label label2id num_labels _num_labels output_attentions output_hidden_states
    output_scores return_dict return_dict_in_generate torchscript use_bfloat16 tf_legacy_loss
    is_decoder chunk_size_feed_forward gradient_checkpointing pretraining_tp
    _attn_implementation attn_implementation _attn_implementation_autoset
    _attn_implementation_internal attention_implementation _flash_attn_2_enabled
    use_flash_attention use_flash_attn flash_attn cache_implementation
    bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id cls_token_id mask_token_id
    bos_token eos_token pad_token unk_token decoder_start_token_id
    forced_bos_token_id forced_eos_token_id suppress_tokens begin_suppress_tokens bad_words_ids
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size num_return_sequences remove_invalid_values max_new_tokens
    exponential_decay_length_penalty is_llama_config transformers.js_config unsloth_fixed
    unsloth_version n_special predict_special_tokens summary_type summary_use_proj
    summary_activation summary_proj_to_labels summary_first_dropout reorder_and_upcast_attn
    classifier_dropout auto_map _commit_hash model_max_length init_std initializer_std
    transformers_weights custom_pipelines vocab_file hermes_ignored_fields output_past
    attention_softmax_in_fp32 scale_attention_softmax_in_fp32
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
    "alibi": (False,),
    "clip_qkv": (),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "residual_multiplier": (1.0,),
    "embedding_multiplier": (1.0,),
    "logits_scaling": (1.0,),
    "logit_scale": (1.0,),
    "qk_layernorm": (False,),
    "use_qk_norm": (False,),
    "use_parallel_residual": (False,),
    "attention_out_bias": (False,),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "layer_types": (),
}


class Fields:
    """The fields of a configuration that have not been taken yet.

    A name may be several, joined by `|`: aliases, of which those present must agree. inside: prefix
    of a nested object's fields, like "rope_scaling."; where: the file's name in errors. ignore:
    unknown fields, by their full names, that `finish` passes over; `ignored` has those it met.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        inside: str = "",
        where: str = "config.json",
        ignore: Iterable[str] = (),
    ):
        self._left = dict(values)
        self._inside = inside
        self._where = where
        self._ignore = frozenset(ignore)
        self.ignored: set[str] = set()

    def open_nested(self, values: Mapping[str, Any], name: str) -> "Fields":
        """Make the fields of an object inside these, whose ignored ones are recorded together.

        name: the object's, or "" where its fields count as fields of these.
        """
        inside = f"{self._inside}{name}." if name else self._inside
        inner = Fields(values, inside, self._where, self._ignore)
        inner.ignored = self.ignored
        return inner

    def __contains__(self, name: str) -> bool:
        return any(alias in self._left for alias in name.split("|"))

    def has(self, name: str) -> bool:
        """Whether a field is present and not null."""
        return any(self._left.get(alias) is not None for alias in name.split("|"))

    def take(self, name: str, default: Any = None) -> Any:
        """Take a field's value, which may be null; the default if the field is missing."""
        aliases = [alias for alias in name.split("|") if alias in self._left]
        values = [self._left.pop(alias) for alias in aliases]
        given = [value for value in values if value is not None]
        for alias, value in zip(aliases, values, strict=True):
            if value is not None and value is not given[0] and value != given[0]:  # not a nan
                raise SpecError(
                    f"{self._where}: {self._inside + alias!r} is {_shorten(value)} and "
                    f"{self._inside + aliases[0]!r} {_shorten(given[0])}, which mean the same; "
                    "remove the one that is wrong",
                    (alias,),
                )
        return given[0] if given else None if values else default

    def put_back(self, name: str, value: Any) -> None:
        """Put back a field that was taken, for another reader."""
        self._left[name] = value

    def take_size(self, name: str, default: int | None = None) -> int:
        """Take an integer from 1; missing or null gives the default, or is refused without one."""
        value = self.take(name)
        value = default if value is None else value
        if value is None:
            first = name.split("|")[0]
            raise SpecError(f"{self._where} has no {self._inside + first!r}", (first,))
        if type(value) is not int or value < 1:
            self._refuse_type(name, "a whole number from 1", value)
        return value

    def take_number(self, name: str) -> float | None:
        """Take a number; None if missing or null."""
        value = self.take(name)
        if value is not None and type(value) not in (int, float):
            self._refuse_type(name, "a number", value)
        return None if value is None else float(value)

    def take_flag(self, name: str, default: bool) -> bool:
        """Take a boolean; missing or null gives the default."""
        value = self.take(name)
        if value is not None and type(value) is not bool:
            self._refuse_type(name, "true or false", value)
        return default if value is None else value

    def take_text(self, name: str, default: str | None = None) -> str:
        """Take a string; missing or null gives the default, or is refused without one."""
        value = self.take(name)
        value = default if value is None else value
        if not isinstance(value, str):
            self._refuse_type(name, "text", value)
        return value

    def take_object(self, name: str) -> dict[str, Any]:
        """Take an object; empty if missing or null."""
        value = self.take(name)
        if value is not None and not isinstance(value, dict):
            self._refuse_type(name, "an object", value)
        return value or {}

    def _refuse_type(self, name: str, wanted: str, value: object) -> NoReturn:
        first = name.split("|")[0]
        raise SpecError(
            f"{self._where}: {self._inside + first!r} must be {wanted}, got {_shorten(value)}",
            (first,),
        )

    def allow_only(self, name: str, *allowed: object) -> None:
        """Take a field and refuse any value but these; missing or null is allowed."""
        value = self.take(name)
        if value is not None and value not in allowed:
            self.refuse(name, value)

    def refuse(self, name: str, value: object) -> NoReturn:
        """Refuse a field whose value MAL cannot express."""
        first = name.split("|")[0]
        raise SpecError(
            f"{self._where}: {self._inside + first!r} is {_shorten(value)}, which MAL cannot say",
            (first,),
        )

    def finish(self, harmless: Container[str] = ()) -> None:
        """Refuse the first remaining field that may change the function, or record it as ignored.

        harmless: more names that change nothing in this family.
        """
        for name, allowed in USUAL.items():
            self.allow_only(name, *allowed)
        for name, value in self._left.items():
            if value is None or name in HARMLESS or name in harmless:
                continue
            full = self._inside + name
            if full in self._ignore:
                self.ignored.add(full)
                continue
            raise SpecError(
                f"{self._where}: {full!r} is {_shorten(value)}, and hermes does not know this field"
                f" here; if it changes nothing of what the model computes, add --ignore-field "
                f"{full}",
                (name,),
            )


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
