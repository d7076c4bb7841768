"""The model that finetuning starts from, with its tokenizer and its chat template."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hermes.chat_templates.encoder import ChatEncoder
from hermes.chat_templates.template import Template, choose_template
from hermes.errors import CheckpointError
from hermes.interface import Array, LazyTensors, Tensors
from hermes.interop.companions import open_tokenizer, parse_object, read_generation_config
from hermes.interop.open_model import StoredModel, open_model
from hermes.numerics.params import list_parameters
from hermes.spec import ModelSpec
from hermes.tokenizer import CHAT_TEMPLATE, Tokenizer, build_tokenizer_config
from hermes.tokenizer.files import has_tokenizer
from hermes.training.request import InitialModel

__all__ = ["CHAT_TOKENS", "BaseModel", "add_special_tokens", "open_base_model", "resize_embeddings"]

CHAT_TOKENS = ("<|im_start|>", "<|im_end|>")
ROWS = ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias")


@dataclass(frozen=True)
class BaseModel:
    """A model to finetune.

    settings: its tokenizer_config.json, for other tools. notes: sentences for the user. new_rows:
    the number of embedding rows that were added for new tokens. message_tokens: special tokens that
    messages may contain. generation_config: the model's generation_config.json.
    """

    path: Path
    spec: ModelSpec
    params: Tensors
    tokenizer: Tokenizer
    template: Template
    settings: Mapping[str, Any]
    notes: tuple[str, ...]
    new_rows: int = 0
    message_tokens: tuple[str, ...] = ()
    generation_config: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def start(self) -> InitialModel:
        """The initial model of a run."""
        return InitialModel(self.spec, self.params, self.notes)

    @property
    def adapted_start(self) -> InitialModel:
        """The initial model of a LoRA run, in which new embedding rows are not trained."""
        said = (
            "adapters train no embeddings, so the new tokens stay alike; tune without them first",
        )
        return InitialModel(self.spec, self.params, self.notes + (said if self.new_rows else ()))

    @property
    def encoder(self) -> ChatEncoder:
        """Encodes conversations by this model's tokenizer and template."""
        return ChatEncoder(self.tokenizer, self.template, self.message_tokens)


def open_base_model(
    checkpoint: str | Path,
    *,
    config: str | Path | None = None,
    tokenizer: Tokenizer | None = None,
    template: str | Path | None = None,
    template_args: Mapping[str, Any] | None = None,
    message_tokens: Sequence[str] = (),
    chat: bool = True,
    eos: str | None = None,
    bos: bool | None = None,
) -> BaseModel:
    """Open a checkpoint or run of hermes, a Hugging Face folder, or bare weights with `config`.

    tokenizer: another than the checkpoint's. template: a Jinja file instead of the checkpoint's
    template; template_args: its arguments; message_tokens: as of ChatEncoder. eos, bos: as in
    `hermes.load`. chat: a checkpoint without a template gets ChatML, and its tokens where the
    tokenizer lacks them. Tokens beyond the model's embedding rows get rows at the mean of the
    others. The notes tell the user of all this. Raises HermesError.
    """
    source = open_model(Path(checkpoint), config=Path(config) if config else None)
    notes = list(source.notes)
    if source.adapted:
        notes.append(f"the adapters of {source.path} are merged into the weights")
    if tokenizer is not None:
        notes += _compare_tokenizers(source, tokenizer)
        if (spare := source.spec.vocab_size - tokenizer.vocab_size) > 0:
            notes.append(
                f"the tokenizer given has {tokenizer.vocab_size:,} tokens, and the model rows for "
                f"{spare:,} more, which stay as they are and which no text uses"
            )
    settings = _read_settings(source)
    own = _choose_tokenizer(source, tokenizer)
    if eos is not None or bos is not None:
        own = own.replace_roles(eos=eos, bos=bos)
    if template is None and "chat_template" not in settings and chat:
        own, added = add_special_tokens(own, CHAT_TOKENS)
        notes.append(f"{source.path} has no chat template; conversations are written as ChatML")
        if added:
            notes.append(f"the tokenizer gets the tokens {', '.join(added)}")
    spec, params = resize_embeddings(source.spec, source.params, own.vocab_size)
    if spec is not source.spec:
        notes.append(
            f"the vocabulary grows from {source.spec.vocab_size} to {spec.vocab_size} tokens; new "
            "rows are the mean of the others"
        )
    names = build_tokenizer_config(own, max_seq_len=spec.max_seq_len) | settings
    if eos is not None and own.eos_id is not None:
        names["eos_token"] = own.get_name(own.eos_id)
    names["add_bos_token"] = own.adds_bos
    found = choose_template(names, file=template, default=CHAT_TEMPLATE, arguments=template_args)
    told = names | ({"chat_template": found.source} if chat or template else {})
    new = spec.vocab_size - source.spec.vocab_size
    return BaseModel(
        *(source.path, spec, params, own, found, told, tuple(notes), new),
        message_tokens=tuple(message_tokens),
        generation_config=read_generation_config(source.files, source.path),
    )


def _choose_tokenizer(source: StoredModel, given: Tokenizer | None) -> Tokenizer:
    """The tokenizer given, by the checkpoint's word where it is the checkpoint's, or that one."""
    if given is None or not has_tokenizer(source.files):
        return given or _read_tokenizer(source)
    own = _read_tokenizer(source)
    return given.take_roles(own) if given.fingerprint == own.fingerprint else given


def _read_settings(source: StoredModel) -> dict[str, Any]:
    """The checkpoint's tokenizer_config.json, with the template that may lie beside it."""
    held = source.files.get("tokenizer_config.json")
    settings = parse_object(held, f"{source.path}/tokenizer_config.json") if held else {}
    if template := source.files.get("chat_template.jinja"):
        settings["chat_template"] = template.decode("utf-8", errors="replace")
    return settings


def _compare_tokenizers(source: StoredModel, given: Tokenizer) -> list[str]:
    """What to tell the user where token ids mean other tokens than in the model's training."""
    if not has_tokenizer(source.files):
        return []
    own = _read_tokenizer(source)
    if not (others := own.count_differing_ids(given)):
        return []
    return [
        f"the tokenizer given is not the checkpoint's: {others:,} of {own.vocab_size:,} ids mean "
        "other tokens now than those that the model was trained on"
    ]


def _read_tokenizer(source: StoredModel) -> Tokenizer:
    found = open_tokenizer(source.files, source.ids, source.path)
    if found is None:
        raise CheckpointError(f"{source.path} has no tokenizer.json; give one with --tokenizer")
    return found


def add_special_tokens(tokenizer: Tokenizer, names: Sequence[str]) -> tuple[Tokenizer, list[str]]:
    """The tokenizer with these special tokens appended, and the names of those it lacked."""
    lacking = [name for name in names if tokenizer.find_special_id(name) is None]
    if not lacking:
        return tokenizer, []
    whole = json.loads(tokenizer.to_json())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    for number, name in enumerate(lacking, tokenizer.vocab_size):
        token = {"id": number, "content": name, "special": True}
        whole["added_tokens"].append(token | flags)
    return tokenizer.replace_json(json.dumps(whole)), lacking


def resize_embeddings(
    spec: ModelSpec, params: Tensors, vocab_size: int
) -> tuple[ModelSpec, Tensors]:
    """The model with at least `vocab_size` rows in its embeddings and its head.

    New rows are the mean of the old ones, so that new tokens start at an average score.

    Source: Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models".
    """
    old = spec.vocab_size
    if vocab_size <= old:
        return spec, params

    def make(name: str) -> Array:
        tensor = params[name]
        if name not in ROWS:
            return tensor
        mean = tensor.astype(np.float64).mean(axis=0, keepdims=True).astype(tensor.dtype)
        return np.concatenate([tensor, np.repeat(mean, vocab_size - old, axis=0)])

    larger = dataclasses.replace(spec, vocab_size=vocab_size)
    return larger, LazyTensors(list_parameters(larger), make)
