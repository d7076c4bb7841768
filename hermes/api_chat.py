"""The public function that opens a conversation: chat."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hermes.arguments import convert_arguments, name_own_arguments
from hermes.chat_templates.template import parse_template_args
from hermes.finetuning.base_model import BaseModel, open_base_model
from hermes.inference.call_checks import check_sampling
from hermes.inference.chat_session import ChatSession
from hermes.inference.prompt_cache import CacheKey, PromptCache, hash_weights
from hermes.inference.sampling_options import SAMPLING_OPTIONS, make_sampling
from hermes.interface import SHORT_NAMES, Backend, Options, choose_backend
from hermes.interface import Model as BackendModel
from hermes.interop.hub import load_tokenizer
from hermes.model_info.devices import (
    choose_device,
    choose_precision,
    report_model,
    require_device_name,
    require_precision,
)
from hermes.model_info.memory import explain_out_of_memory
from hermes.model_loading import SMALLER, check_loading
from hermes.tokenizer import Tokenizer

__all__ = ["chat", "make_cache_key", "open_chat_model"]


@name_own_arguments
def chat(
    checkpoint: str | Path,
    *,
    config: str | Path | None = None,
    ignore_fields: Sequence[str] = (),
    use_ema: bool = False,
    tokenizer: str | Path | Tokenizer | None = None,
    eos: str | None = None,
    template: str | Path | None = None,
    template_arg: Sequence[str] = (),
    system: str = "",
    max_tokens: int = 512,
    stop: Sequence[str] = (),
    stop_id: Sequence[int] = (),
    context_overflow: str = "stop",
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    typical_p: float | None = None,
    xtc_probability: float | None = None,
    xtc_threshold: float | None = None,
    repetition_penalty: float | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    no_repeat_ngram: int | None = None,
    dry_multiplier: float | None = None,
    dry_base: float | None = None,
    dry_allowed_length: int | None = None,
    dry_range: int | None = None,
    dry_breaker: Sequence[str] = (),
    logit_bias: Sequence[str] = (),
    ban: Sequence[str] = (),
    min_tokens: int | None = None,
    seed: int = 0,
    prompt_cache: str | Path | None = None,
    backend: str = "auto",
    device: str | None = None,
    precision: str = "auto",
    force: bool = False,
) -> ChatSession:
    """Start a conversation: `say` gives the answer to a message in pieces, and remembers both.

        talk = hermes.chat("run")
        print("".join(talk.say("Hello!")))

    checkpoint to eos, force: as in `load`. template: a Jinja file instead of the checkpoint's chat
    template; template_arg: its arguments, such as "enable_thinking=false". max_tokens: of an
    answer. Sampling and what ends an answer are as in `generate`. context_overflow: what becomes of
    an answer for which the context has no more room, as there. prompt_cache: a file of what the
    last conversation had been read. Raises HermesError of every kind.
    """
    a = convert_arguments(chat, locals())
    check_sampling(a)
    base, model, chosen = open_chat_model(checkpoint, a)
    wanted = {name: a[name] for name in SAMPLING_OPTIONS}
    sampling, said = make_sampling(base.encoder.tokenizer, base.generation_config, wanted)
    if said:
        warnings.warn(said, stacklevel=3)
    return ChatSession(
        model,
        base.encoder,
        system,
        sampling,
        a["max_tokens"],
        a["seed"],
        stop=a["stop"],
        stop_ids=a["stop_id"],
        context_overflow=a["context_overflow"],
        cache=None
        if a["prompt_cache"] is None
        else PromptCache(a["prompt_cache"], make_cache_key(base, a["precision"], chosen, device)),
        backend=chosen,
        device=device,
    )


def make_cache_key(
    base: BaseModel, precision: str, backend: Backend, device: str | None
) -> CacheKey:
    """Whose prompts the files of a model for conversations may have."""
    chosen = choose_precision(precision, backend, device)
    return CacheKey(hash_weights(base.spec, base.params), SHORT_NAMES.get(chosen, chosen))


def open_chat_model(
    checkpoint: str | Path, a: Mapping[str, Any]
) -> tuple[BaseModel, BackendModel, Backend]:
    """Open and build a model for conversations, as the arguments of `chat` or `serve` say.

    Warns of what its user should know. Raises HermesError of every kind.
    """
    require_precision(a["precision"])
    require_device_name(a["backend"], a["device"])
    given = a["tokenizer"]
    if given is not None and not isinstance(given, Tokenizer):
        given = load_tokenizer(given)
    base = open_base_model(
        checkpoint,
        config=a["config"],
        ignore_fields=a["ignore_fields"],
        use_ema=a["use_ema"],
        tokenizer=given,
        template=a["template"],
        eos=a["eos"],
        template_args=parse_template_args(a["template_arg"]),
        train=False,
    )
    backend, device = choose_backend(a["backend"]), a["device"]
    place = choose_device(backend, device)
    precision = choose_precision(a["precision"], backend, device)
    notes = check_loading(backend, base.spec, place, precision, a["force"])
    for note in (*base.notes, *notes):
        warnings.warn(note, stacklevel=4)
    with explain_out_of_memory(f"building {base.spec.name}", SMALLER, backend, device):
        options = Options(device=device, precision=precision)
        model = backend.build(base.spec, base.params, options)
    report_model(backend, base.spec, place, precision)
    return base, model, backend
