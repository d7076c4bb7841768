"""From the arguments of finetune, sft and dpo to the base model, the recipe and the request."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hermes.arguments import Call
from hermes.chat_templates.template import parse_template_args
from hermes.checkpoint import find_newest
from hermes.data.bad_records import BadRecords
from hermes.data.example_cache import ExampleCache
from hermes.errors import HermesError
from hermes.finetuning.base_model import (
    CHAT_TOKENS,
    BaseModel,
    add_special_tokens,
    open_base_model,
)
from hermes.interface import Tensors
from hermes.interop.hub import load_tokenizer
from hermes.recipe import LORA_TARGETS, Lora
from hermes.storage.addresses import require_local
from hermes.tokenizer import Tokenizer
from hermes.training.host import RunHost
from hermes.training.options import (
    ROW_OPTIONS,
    list_names,
    make_data_options,
    make_request,
    make_row_options,
    read_recipe_fields,
)
from hermes.training.request import RunRequest
from hermes.training.run import check_output, has_checkpoint
from hermes.training.run_yaml import read_setting
from hermes.training.text_boundaries import restore_boundaries

__all__ = [
    "apply_run_settings",
    "check_length",
    "check_preference_options",
    "check_show_samples",
    "choose_base_model",
    "choose_reference_weights",
    "is_resuming",
    "make_bad_records",
    "make_example_cache",
    "make_finetuning_fields",
    "make_finetuning_request",
    "make_lora",
    "make_text_request",
]

LONGEST_TEXT = 256  # default tokens per sequence
LORA = (
    *("lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "lora_rslora", "dora"),
    "train_new_tokens",
)


# What an adapter that training continues from says itself.
OF_ADAPTER = ("lora_rank", "lora_alpha", "lora_targets", "lora_rslora", "dora")


def is_resuming(call: Call) -> bool:
    """Whether the call resumes a run that has saved a checkpoint."""
    return call["resume"] and has_checkpoint(call["output"])


def apply_run_settings(call: Call, *names: str) -> Call:
    """The call with a resumed run's own values of what makes it that run.

    Raises HermesError where the caller gave another value.
    """
    if not is_resuming(call):
        return call
    output, own = Path(call["output"]), {}
    for name in names:
        there = read_setting(output, name)
        there = tuple(there) if isinstance(there, list) else there
        if there is None or there == call[name]:
            continue
        if call.has_given(name):
            raise HermesError(
                f"{name} is {there!r} in {output / 'run.yaml'} and {call[name]!r} here; leave it "
                "out to resume the run, or choose another --output for a new one"
            )
        own[name] = there
    return replace(call, values={**call.values, **own})


def choose_base_model(call: Call, *, chat: bool) -> BaseModel:
    """The model that a run starts from, or a resumed run's own. Raises HermesError."""
    check_output(Path(call["output"]), resume=call["resume"])
    template = call.values.get("template")
    if is_resuming(call):
        return _open_run_model(call, template if call.has_given("template") else None, chat=chat)
    if not call["checkpoint"]:
        raise HermesError("no model to tune: give --checkpoint C")
    base = open_base_model(
        call["checkpoint"],
        config=call.values.get("config"),
        ignore_fields=call["ignore_fields"],
        tokenizer=_load_tokenizer(call["tokenizer"]),
        template=template,
        chat=chat,
        refuse_other_ids=not call["allow_tokenizer_change"],
        eos=call["eos"],
        bos=call["bos"],
        **_read_template_options(call),
    )
    adapter = call.values.get("adapter")
    if not adapter:
        return base
    for name in OF_ADAPTER:
        if call.has_given(name):
            raise HermesError(
                f"--{name.replace('_', '-')} is what the adapter of --adapter was made with; leave "
                "it out"
            )
    return base.add_adapter(Path(adapter), dropout=call["lora_dropout"])


def _read_template_options(call: Call) -> dict[str, Any]:
    """The arguments of open_base_model on conversations. Raises DataError."""
    return {
        "template_args": parse_template_args(call.values.get("template_arg", ())),
        "message_tokens": call.values.get("message_token", ()),
    }


def _load_tokenizer(given: Tokenizer | str | Path | None) -> Tokenizer | None:
    return given if given is None or isinstance(given, Tokenizer) else load_tokenizer(given)


def _open_run_model(call: Call, template: str | Path | None, *, chat: bool) -> BaseModel:
    """The run's find_newest checkpoint, which has its tokenizer and its template."""
    opened = open_base_model(
        call["output"], template=template, chat=chat, train=False, **_read_template_options(call)
    )
    boundaries = restore_boundaries(opened.tokenizer, Path(call["output"]), call.values)
    own = replace(opened, tokenizer=boundaries)
    given = _load_tokenizer(call["tokenizer"]) if call.has_given("tokenizer") else None
    if given is None:
        return own
    same = own.tokenizer.fingerprint == add_special_tokens(given, CHAT_TOKENS)[0].fingerprint
    return own if same else replace(own, tokenizer=given)


def choose_reference_weights(call: Call, base: BaseModel) -> Callable[[], Tensors] | None:
    """Opens the weights that a resumed run started from; None for a new run, which has them."""
    if not is_resuming(call):
        return None
    output = Path(call["output"])
    given = call["checkpoint"] if call.has_given("checkpoint") else None

    def open_weights() -> Tensors:
        checkpoint = given or read_setting(output, "checkpoint")
        try:
            if not checkpoint:
                raise HermesError("its run.yaml does not say where")
            return open_base_model(
                checkpoint,
                config=call.values.get("config"),
                ignore_fields=call["ignore_fields"],
                tokenizer=base.tokenizer,
                template=None if call.values.get("no_template") else base.template,
                chat=False,
            ).params
        except HermesError as error:
            missing = "" if given else "has lost its reference.npz and "
            raise type(error)(
                f"run {output} {missing}needs the model that it began from ({error}); "
                "say with --checkpoint C where it is now"
            ) from None

    return open_weights


def check_preference_options(call: Call) -> None:
    """Refuse arguments that the loss has no use for. Raises HermesError."""
    loss = call["loss"]
    if call.has_given("gamma") and loss != "simpo":
        raise HermesError(f"gamma belongs to loss simpo, not to {loss}")
    if call["reference_cache"] is not None and loss in ("orpo", "simpo"):
        raise HermesError(f"--reference-cache has no meaning with loss {loss}, which has none")


def check_show_samples(call: Call) -> None:
    """Refuse a number of samples to show that is none. Raises HermesError."""
    if call["show_samples"] < 0:
        raise HermesError(f"show_samples must be at least 0, got {call['show_samples']}")


def make_bad_records(call: Call) -> BadRecords | None:
    """What counts records that are left out; None where the first stops. Raises DataError."""
    return BadRecords(call["max_bad_records"]) if call["skip_bad_records"] else None


def make_example_cache(call: Call, host: RunHost) -> ExampleCache:
    """Where the call's encoded examples are kept. Raises HermesError."""
    folder = Path(call["cache_dir"]) if call["cache_dir"] else None
    if folder is not None:
        require_local(folder, "examples")
    return ExampleCache(folder, host.tell)


def make_finetuning_fields(call: Call, base: BaseModel, longest: int) -> dict[str, object]:
    """Recipe fields: all of a new run's, and those that were given of a resumed one.

    longest: the default length of a sample, where the model has room for it. Raises HermesError.
    """
    max_seq_len = base.spec.max_seq_len
    call = apply_run_settings(call, "train_new_tokens")
    if is_resuming(call):
        fields = read_recipe_fields(call)
        if any(map(call.has_given, LORA)):
            fields["lora"] = make_lora(call, _read_token_ids(call))
    else:
        fields = read_recipe_fields(call, defaults=True)
        if fields["seq_len"] is None:
            fields["seq_len"] = min(longest, max_seq_len)
        if base.adapter is None:
            fields["lora"] = make_lora(call, base.new_ids)
        else:
            new = base.new_ids if call["train_new_tokens"] else ()
            own = base.adapter.lora
            fields["lora"] = replace(own, token_ids=tuple(sorted({*own.token_ids, *new})))
    check_length(call, fields)
    length = fields.get("seq_len")
    if "max_len" in call.values and isinstance(length, int) and length > max_seq_len:
        raise HermesError(
            f"max_len is {length}, more than the model's max_seq_len {max_seq_len}; "
            "choose a shorter --max-len"
        )
    return fields


def check_length(call: Call, fields: Mapping[str, object]) -> None:
    """Refuse a length of the sides of pairs that is none. Raises HermesError."""
    length = fields.get("seq_len")
    if "max_len" in call.values and isinstance(length, int) and length < 1:
        raise HermesError(f"max_len must be at least 1, got {length}")


def _read_token_ids(call: Call) -> tuple[int, ...]:
    """The tokens of which a run with checkpoints trains rows."""
    checkpoint = find_newest(Path(call["output"])).checkpoint
    lora = checkpoint.progress.recipe.lora if checkpoint else None
    return lora.token_ids if lora else ()


def make_lora(call: Call, new_ids: tuple[int, ...]) -> Lora | None:
    """The adapters asked for, None for none. new_ids: the new tokens. Raises HermesError."""
    if not call.values.get("lora_rank"):
        for name in LORA[1:]:
            if call.has_given(name):
                option = name.replace("_", "-")
                raise HermesError(f"--{option} belongs to adapters; give --lora-rank with it")
        return None
    named = call["lora_targets"]
    targets = LORA_TARGETS if named == "all" else tuple(t.strip() for t in named.split(","))
    return Lora(
        call["lora_rank"],
        call["lora_alpha"],
        call["lora_dropout"],
        targets,
        rslora=call["lora_rslora"],
        dora=call["dora"],
        token_ids=new_ids if call["train_new_tokens"] else (),
    )


def make_finetuning_request(
    call: Call, host: RunHost, base: BaseModel, fields: Mapping[str, object], **more: Any
) -> RunRequest:
    """The request of a run that starts from `base`. more: fields of RunRequest."""
    lora = fields.get("lora")
    start = base.make_adapted_start(lora.token_ids) if isinstance(lora, Lora) else base.start
    return make_request(
        call,
        host,
        fields,
        tokenizer=base.tokenizer,
        initial_model=start,
        tokenizer_settings=base.settings,
        **more,
    )


def make_text_request(call: Call, host: RunHost) -> RunRequest:
    """The request of a run that trains an existing model further on text. Raises HermesError."""
    call = apply_run_settings(call, *ROW_OPTIONS)
    base = choose_base_model(call, chat=False)
    fields = make_finetuning_fields(call, base, LONGEST_TEXT)
    return make_finetuning_request(
        call,
        host,
        base,
        fields,
        data_options=make_data_options(call, host),
        validation=list_names(call["val_data"]),
        rows=make_row_options(call),
    )
