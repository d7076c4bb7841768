"""The public functions that make text: generate and chat."""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hermes.arguments import convert_arguments, name_own_arguments
from hermes.chat_templates.template import parse_template_args
from hermes.errors import HermesError
from hermes.finetuning.base_model import BaseModel, open_base_model
from hermes.inference.chat_session import ChatSession
from hermes.inference.decoding import check_lengths
from hermes.inference.engine import Engine
from hermes.inference.generated_text import GeneratedText
from hermes.inference.grammar import read_json_schema
from hermes.inference.prompt_cache import CacheKey, PromptCache, hash_weights
from hermes.inference.prompts_file import (
    IN_FLIGHT,
    PromptRecord,
    TextsFile,
    generate_texts,
    read_prompt_records,
)
from hermes.inference.request import Request
from hermes.inference.sampling import Sampling
from hermes.inference.sampling_options import SAMPLING_OPTIONS, check_sampling, make_sampling
from hermes.interface import SHORT_NAMES, Backend, Options, choose_backend
from hermes.interface import Model as BackendModel
from hermes.interop.hub import load_tokenizer
from hermes.model import Model
from hermes.model_info.devices import choose_device, choose_precision, report_model
from hermes.model_info.memory import explain_out_of_memory
from hermes.model_loading import SMALLER, check_loading, load
from hermes.tokenizer import Tokenizer

__all__ = ["chat", "generate", "generate_from_file", "open_chat_model"]


@name_own_arguments
def generate(
    checkpoint: str | Path,
    prompt: str = "",
    *,
    config: str | Path | None = None,
    ignore_fields: Sequence[str] = (),
    use_ema: bool = False,
    tokenizer: str | Path | Tokenizer | None = None,
    eos: str | None = None,
    bos: bool | None = None,
    max_tokens: int = 100,
    stop: Sequence[str] = (),
    stop_id: Sequence[int] = (),
    context_overflow: str = "stop",
    json_schema: str | Path | Mapping[str, Any] | None = None,
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
    num_samples: int = 1,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    logprobs: int | None = None,
    echo: bool = False,
    prompt_cache: str | Path | None = None,
    prompts: str | Path | None = None,
    output: str | Path | None = None,
    batch_size: int = 16,
    batch_invariant: bool = False,
    backend: str = "auto",
    device: str | None = None,
    precision: str = "auto",
    force: bool = False,
) -> list[GeneratedText]:
    """Continue a prompt, num_samples times, with the seeds from `seed` on.

    checkpoint to bos, force: as in `load`. temperature 0 takes the likeliest token, always; what is
    None of temperature, top_k, top_p and min_p is as the checkpoint's generation_config.json has
    it, else 0.8, 0, 1 and 0. The rest of sampling is as in `Sampling`, where ban, dry_breaker and
    logit_bias ("ID=NUMBER") become ids; stop, stop_id, context_overflow, logprobs and echo are as
    in `Model.complete`, and so is json_schema, which may also be a file. A seed gives the same text
    on every backend.

    prompt_cache: as in `Model.complete`.

    num_beams: above 1, the num_samples best texts of a beam search, ranked by length_penalty, which
    takes none of the settings of sampling. prompts: instead of `prompt` a file of
    {"prompt": "..."}, batch_size of which run at once; output: the file for their texts, where
    lines of an earlier call are kept, and returned without their logprobs. batch_invariant: each of
    these texts has the same bits whichever others are in its batch. For many calls use
    `load` once, and `Model.complete`. Raises HermesError of
    every kind.
    """
    a = convert_arguments(generate, locals())
    a["json_schema"] = choose_schema(a["json_schema"])
    if a["num_samples"] < 1:
        raise HermesError(f"num_samples must be at least 1, got {num_samples}")
    if output is not None and prompts is None:
        raise HermesError("--output is the file for the texts of --prompts; give those, too")
    check_before_loading(a)
    model = load(
        checkpoint, backend, device, precision, config=config, tokenizer=tokenizer,
        ignore_fields=a["ignore_fields"], eos=eos, bos=a["bos"], force=a["force"],
        use_ema=a["use_ema"],
    )  # fmt: skip
    if a["num_beams"] != 1:
        return search(model, a)
    if prompts is not None:
        return generate_from_file(model, a)
    sampling = choose_all_sampling(model, a)
    return [
        model.complete(
            prompt,
            max_tokens=a["max_tokens"],
            sampling=sampling,
            seed=a["seed"] + k,
            stop=a["stop"],
            stop_ids=a["stop_id"],
            logprobs=a["logprobs"],
            echo=a["echo"],
            context_overflow=a["context_overflow"],
            json_schema=a["json_schema"],
            prompt_cache=a["prompt_cache"],
        )
        for k in range(a["num_samples"])
    ]


def check_before_loading(arguments: Mapping[str, Any]) -> None:
    """Refuse what no model could do, before one is loaded. Raises HermesError."""
    check_sampling(arguments)
    if arguments["batch_invariant"] and arguments["prompts"] is None:
        raise HermesError("--batch-invariant goes with --prompts; a text alone shares no batch")


def search(model: Model, arguments: Mapping[str, Any]) -> list[GeneratedText]:
    """The best texts of a beam search, by the arguments of `generate`. Raises HermesError."""
    a = arguments
    others = (
        *("stop", "stop_id", "json_schema", "logprobs", "echo", "prompts", "seed", "prompt_cache"),
        *SAMPLING_OPTIONS,
    )
    idle = next((name for name in others if _is_given(name, a[name])), None)
    if idle is not None:
        raise HermesError(f"--{idle.replace('_', '-')} is not for --num-beams; leave it out")
    if a["context_overflow"] != "stop":
        raise HermesError("--context-overflow slide is not for --num-beams; leave it out")
    if a["num_beams"] > 0 and a["num_samples"] > a["num_beams"]:  # a search refuses fewer
        raise HermesError(
            f"num_samples is {a['num_samples']}, more than num_beams, {a['num_beams']}, finds"
        )
    found = model.search(
        a["prompt"],
        num_beams=a["num_beams"],
        max_tokens=a["max_tokens"],
        length_penalty=a["length_penalty"],
    )
    return found[: a["num_samples"]]


def choose_schema(given: str | Path | Mapping[str, Any] | None) -> Any:
    """The JSON schema that is given, read where it is a file. Raises DataError, StorageError."""
    return read_json_schema(given) if isinstance(given, str | Path) else given


def _is_given(name: str, value: Any) -> bool:
    """Whether an option has another value than where it is left out, which for numbers is None."""
    unset = value is None or value is False or value == ()
    return not unset and (name != "seed" or value != 0)


def choose_all_sampling(model: Model, arguments: Mapping[str, Any]) -> Sampling:
    """A model's sampling by the arguments of `generate`."""
    return model.choose_sampling(others={name: arguments[name] for name in SAMPLING_OPTIONS})


def generate_from_file(
    model: Model,
    arguments: Mapping[str, Any],
    report: Callable[[int, int], object] = lambda done, total: None,
) -> list[GeneratedText]:
    """Continue the prompts of a file, with the arguments of `generate`.

    report: takes how many texts are written and how many there will be. Raises HermesError.
    """
    a = arguments
    if a["prompt"]:
        raise HermesError("--prompt and --prompts are both given; give one")
    if a["echo"]:
        raise HermesError("--echo goes with --prompt; the texts of --prompts have their prompts")
    if a["prompt_cache"] is not None:
        raise HermesError(
            "--prompt-cache goes with --prompt; what the prompts of --prompts share is read once"
        )
    if a["batch_size"] < 1:
        raise HermesError(f"batch_size must be at least 1, got {a['batch_size']}")
    records, count = read_prompt_records(Path(a["prompts"])), a["num_samples"]
    made = []
    for number, record in enumerate(records, start=1):
        try:
            made += _make_requests(model, record, a)
        except HermesError as error:
            raise HermesError(f"prompt {number} of {a['prompts']}: {error}") from error
    advice = "a smaller --batch-size or fewer --max-tokens"
    with model.explain_memory(advice):
        engine = _make_file_engine(model, made, a)
    file = None
    if a["output"] is not None:
        file = TextsFile(Path(a["output"]), records, count, _name_settings(model, a))
    kept = file.kept if file else []
    start = len(kept)
    try:
        report(start, len(made))
        with model.explain_memory(advice):
            new = generate_texts(
                engine,
                made[start:],
                lambda generation, _: model.describe_generation(generation),
                lambda number, text: file.append(start + number, text) if file else None,
                lambda done: report(start + done, len(made)),
            )
    finally:
        if file is not None:
            file.close()
    return [*kept, *new]


def _make_file_engine(
    model: Model, made: Sequence[Request], arguments: Mapping[str, Any]
) -> Engine:
    """An engine as large as these texts need, or as batch_invariant needs, whichever they are."""
    size = arguments["batch_size"]
    longest: int | None = max(len(one.prompt) + one.max_tokens for one in made)
    waiting = IN_FLIGHT * size
    if not arguments["batch_invariant"]:
        return model.make_engine(rows=min(size, len(made)), capacity=longest, max_queue=waiting)
    if any(one.window_size is not None for one in model.spec.attentions):
        longest = None  # the capacity decides which windows have buffers of their own
    return model.make_engine(rows=size, capacity=longest, max_queue=waiting, batch_invariant=True)


def _make_requests(
    model: Model, record: PromptRecord, arguments: Mapping[str, Any]
) -> list[Request]:
    """The requests of a prompt, one for each sample."""
    own = {**arguments, **record.options}
    own = convert_arguments(generate, {name: own[name] for name in arguments})
    sampling = choose_all_sampling(model, own)
    made = [
        model.make_request(
            record.prompt,
            max_tokens=own["max_tokens"],
            sampling=sampling,
            seed=own["seed"] + k,
            stop=own["stop"],
            stop_ids=own["stop_id"],
            logprobs=own["logprobs"],
            context_overflow=own["context_overflow"],
            json_schema=own["json_schema"],
        )
        for k in range(own["num_samples"])
    ]
    for one in made[:1]:  # which says now, and not after hours, what would be refused
        check_lengths(model.spec.max_seq_len, one.prompt, one.max_tokens, one.context_overflow)
    return made


def _name_settings(model: Model, arguments: Mapping[str, Any]) -> str:
    """A short name of all that decides the texts, so that a file has those of one setting."""
    elsewhere = ("prompts", "output", "batch_size", "backend", "device", "tokenizer", "checkpoint")
    told = {name: value for name, value in arguments.items() if name not in elsewhere}
    if told.pop("batch_invariant", False):  # left out, so that files of earlier versions go on
        told["batch_invariant"] = arguments["batch_size"]  # which the bits may depend on
    text = json.dumps([str(model.path), told], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


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
