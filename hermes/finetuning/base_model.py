"""The model that finetuning starts from, with its tokenizer and its chat template."""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hermes.chat_templates.encoder import ChatEncoder
from hermes.chat_templates.template import Template, choose_template, require_template
from hermes.checkpoint.compatibility import describe_tokens_beyond
from hermes.errors import CheckpointError, HermesError
from hermes.finetuning.initial_adapter import InitialAdapter, make_initial_adapter
from hermes.finetuning.new_tokens import (
    ROWS,
    find_changed_ids,
    find_new_rows,
    find_written_ids,
    set_rows_to_mean,
    split_ids_beyond,
)
from hermes.formatting import format_count
from hermes.interface import Array, LazyTensors, Tensors
from hermes.interop.adapters import find_adapter
from hermes.interop.companions import open_tokenizer, parse_object, read_generation_config
from hermes.interop.open_model import StoredModel, open_model
from hermes.numerics.params import list_parameters
from hermes.spec import ModelSpec
from hermes.tokenizer import CHAT_TEMPLATE, Tokenizer, build_tokenizer_config
from hermes.tokenizer.files import has_tokenizer
from hermes.training.request import InitialModel

__all__ = ["CHAT_TOKENS", "BaseModel", "add_special_tokens", "open_base_model", "resize_embeddings"]

CHAT_TOKENS = ("<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class BaseModel:
    """A model to finetune.

    settings: its tokenizer_config.json, for other tools. notes: sentences for the user. new_ids:
    tokens that training writes and the model was never trained on, whose rows start at the mean.
    message_tokens: special tokens that messages may contain. generation_config: the model's
    generation_config.json. family: in whose layout its files are. adapter: what a run of adapters
    starts from.
    """

    path: Path
    spec: ModelSpec
    params: Tensors
    tokenizer: Tokenizer
    template: Template
    settings: Mapping[str, Any]
    notes: tuple[str, ...]
    new_ids: tuple[int, ...] = ()
    message_tokens: tuple[str, ...] = ()
    generation_config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    family: str = "hermes"
    adapter: InitialAdapter | None = None

    def add_adapter(self, folder: Path, *, dropout: float = 0.0) -> "BaseModel":
        """This model with an adapter to train further, a run's newest or another tool's.

        Raises CheckpointError where the adapter is of another model, or a run cannot train it.
        """
        path, adapter, notes = find_adapter(
            folder, self.spec, self.params, family=self.family, model=self.path
        )
        made = make_initial_adapter(path, adapter, self.spec, dropout=dropout)
        told = (*self.notes, *notes, *made.notes)
        return dataclasses.replace(self, adapter=made, notes=told)

    @property
    def start(self) -> InitialModel:
        """The initial model of a run."""
        return InitialModel(self.spec, self.params, self.notes)

    def make_adapted_start(self, trained_ids: Collection[int]) -> InitialModel:
        """The initial model of a LoRA run, which trains the rows of these tokens beside."""
        said: tuple[str, ...] = ()
        if trained_ids:
            words = name_tokens(self.tokenizer, trained_ids)
            said = (f"the rows of {words} are trained beside the adapters",)
        elif self.new_ids:
            words = name_tokens(self.tokenizer, self.new_ids)
            said = (
                f"adapters train no embeddings, so {words} stay alike, and an answer that ends "
                "with one of them may never end; --train-new-tokens trains their rows",
            )
        change = self.adapter.change_first_values if self.adapter else None
        return InitialModel(self.spec, self.params, self.notes + said, change)

    @property
    def encoder(self) -> ChatEncoder:
        """Encodes conversations by this model's tokenizer and template."""
        return ChatEncoder(self.tokenizer, self.template, self.message_tokens)


def open_base_model(
    checkpoint: str | Path,
    *,
    config: str | Path | None = None,
    ignore_fields: Sequence[str] = (),
    tokenizer: Tokenizer | None = None,
    template: str | Path | Template | None = None,
    template_args: Mapping[str, Any] | None = None,
    message_tokens: Sequence[str] = (),
    chat: bool = True,
    refuse_other_ids: bool = False,
    eos: str | None = None,
    bos: bool | None = None,
    train: bool = True,
    use_ema: bool = False,
) -> BaseModel:
    """Open a checkpoint or run of hermes, a Hugging Face folder, or bare weights with `config`.

    ignore_fields, use_ema: as in `open_model`. tokenizer: another than the checkpoint's. template:
    a Jinja file, or a template, instead of the checkpoint's; template_args: its arguments.
    message_tokens: as of ChatEncoder. eos, bos: as in `hermes.load`. chat: a checkpoint without a
    template gets ChatML, and its tokens where the tokenizer lacks them. refuse_other_ids: refuse a
    tokenizer whose ids mean other tokens. Tokens beyond the model's embedding rows get rows at the
    mean of the others, save special tokens of the checkpoint's own that nothing writes. train:
    tokens that training writes and whose rows were never trained start there, too; otherwise they
    are only named. The notes tell the user of all this. Raises HermesError.
    """
    if isinstance(template, str | Path):  # before anything is asked of the Hub
        require_template(template)
    source = open_model(
        Path(checkpoint),
        config=Path(config) if config else None,
        ignore_fields=ignore_fields,
        use_ema=use_ema,
    )
    notes = list(source.notes)
    if source.adapted:
        notes.append(f"the adapters of {source.path} are merged into the weights")
    before = None
    if tokenizer is None or has_tokenizer(source.files):
        before = _read_tokenizer(source)
    if tokenizer is not None and before is not None:
        other_ids = _compare_tokenizers(before, tokenizer)
        if other_ids and refuse_other_ids:
            raise HermesError(
                f"{other_ids[0]}; give one that only adds tokens, or --allow-tokenizer-change"
            )
        notes += other_ids
    settings = _read_settings(source)
    own = _choose_tokenizer(before, tokenizer)
    if eos is not None or bos is not None:
        own = own.replace_roles(eos=eos, bos=bos)
    if template is None and "chat_template" not in settings and chat:
        own, added = add_special_tokens(own, CHAT_TOKENS)
        notes.append(f"{source.path} has no chat template; conversations are written as ChatML")
        if added:
            notes.append(f"the tokenizer gets the tokens {', '.join(added)}")
    if tokenizer is not None and (spare := source.spec.vocab_size - own.vocab_size) > 0:
        notes.append(
            f"the tokenizer given has {own.vocab_size:,} tokens, and the model rows for "
            f"{spare:,} more, which stay as they are and which no text uses"
        )
    names = build_tokenizer_config(own, max_seq_len=source.spec.max_seq_len) | settings
    if eos is not None and own.eos_id is not None:
        names["eos_token"] = own.get_name(own.eos_id)
    names["add_bos_token"] = own.adds_bos
    if isinstance(template, Template):
        found = template
    else:
        found = choose_template(
            names, file=template, default=CHAT_TEMPLATE, arguments=template_args
        )
    written = find_written_ids(own, found if chat or template else None)
    changed = find_changed_ids(before, own) if before else frozenset[int]()
    mended, new, told_of = _start_new_rows(
        source, before, own, written=written, changed=changed, train=train
    )
    notes += told_of
    asked = {own.find_id(name) for name in message_tokens}
    needed, left_out = split_ids_beyond(
        own, source.spec.vocab_size, written | changed | asked | {*own.beginning}
    )
    if left_out:
        notes.append(describe_tokens_beyond([own.get_name(i) for i in left_out]))
    spec, params = resize_embeddings(source.spec, mended, max(needed, default=-1) + 1)
    if spec is not source.spec:
        notes.append(
            f"the vocabulary grows from {source.spec.vocab_size} to {spec.vocab_size} tokens; new "
            "rows are the mean of the others"
        )
    told = names | ({"chat_template": found.source} if chat or template else {})
    new_ids = (*sorted(new), *needed)
    return BaseModel(
        *(source.path, spec, params, own, found, told, tuple(notes), new_ids),
        message_tokens=tuple(message_tokens),
        generation_config=read_generation_config(source.files, source.path),
        family=source.family,
    )


def _choose_tokenizer(own: Tokenizer | None, given: Tokenizer | None) -> Tokenizer:
    """The tokenizer given, by the checkpoint's word where it is the checkpoint's, or that one."""
    if given is None or own is None:
        chosen = given or own
        assert chosen is not None, "one is given or read"
        return chosen
    return given.take_roles(own) if given.fingerprint == own.fingerprint else given


def _start_new_rows(
    source: StoredModel,
    before: Tokenizer | None,
    tokenizer: Tokenizer,
    *,
    written: frozenset[int],
    changed: frozenset[int],
    train: bool,
) -> tuple[Tensors, frozenset[int], list[str]]:
    """The weights with never trained rows at the mean, the tokens of those, and what to tell.

    before: the checkpoint's own tokenizer. written, changed: ids of `tokenizer`, as in
    `find_written_ids` and `find_changed_ids`. train: False leaves the weights as they are.
    """
    tokens = min(before.vocab_size if before else source.spec.vocab_size, source.spec.vocab_size)
    candidates = written | {i for i in changed if i >= tokens}
    rows = find_new_rows(source.params, candidates, changed)
    new = frozenset(i for ids in rows.values() for i in ids)
    if not new:
        return source.params, new, []
    words = name_tokens(tokenizer, new)
    if not train:
        return source.params, frozenset(), [f"the model was never trained on {words}"]
    note = f"the model was never trained on {words}: their rows start at the mean of the others"
    return set_rows_to_mean(source.spec, source.params, rows, tokens), new, [note]


def name_tokens(tokenizer: Tokenizer, ids: Collection[int]) -> str:
    """Name some tokens, the first few of many."""
    names = [tokenizer.get_token_bytes(i).decode(errors="replace") for i in sorted(ids)]
    if len(names) > 8:
        return f"{format_count(len(names), 'tokens')} ({', '.join(names[:4])}, ...)"
    return ", ".join(names)


def _read_settings(source: StoredModel) -> dict[str, Any]:
    """The checkpoint's tokenizer_config.json, with the template that may lie beside it."""
    held = source.files.get("tokenizer_config.json")
    settings = parse_object(held, f"{source.path}/tokenizer_config.json") if held else {}
    if template := source.files.get("chat_template.jinja"):
        settings["chat_template"] = template.decode("utf-8", errors="replace")
    return settings


def _compare_tokenizers(before: Tokenizer, given: Tokenizer) -> list[str]:
    """What to tell the user where token ids mean other tokens than in the model's training."""
    if not (others := before.count_differing_ids(given)):
        return []
    return [
        f"the tokenizer given is not the checkpoint's: {others:,} of {before.vocab_size:,} ids "
        "mean other tokens now than those that the model was trained on"
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
