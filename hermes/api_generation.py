"""The public function that makes texts: generate."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hermes.arguments import convert_arguments, name_own_arguments
from hermes.errors import HermesError
from hermes.inference.batch_generation import IN_FLIGHT, generate_texts
from hermes.inference.call_checks import check_generation
from hermes.inference.decoding import check_lengths
from hermes.inference.engine import Engine
from hermes.inference.generated_text import GeneratedText
from hermes.inference.grammar import read_json_schema
from hermes.inference.prompts_file import PromptRecord, TextsFile, read_prompt_records
from hermes.inference.request import Request
from hermes.inference.sampling import Sampling
from hermes.inference.sampling_options import SAMPLING_OPTIONS
from hermes.model import Model
from hermes.model_loading import load
from hermes.tokenizer import Tokenizer

__all__ = [
    "check_batch_invariance",
    "choose_all_sampling",
    "choose_schema",
    "generate",
    "generate_from_file",
    "search",
]


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
    check_batch_invariance(a)
    check_generation(a)
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


def check_batch_invariance(arguments: Mapping[str, Any]) -> None:
    """Refuse batch_invariant where there is no batch. Raises HermesError."""
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
    made: list[Request] = []
    for number, record in enumerate(records, start=1):
        with _name_prompt(number, a["prompts"]):
            made += _make_requests(model, record, a)
    advice = "a smaller --batch-size or fewer --max-tokens"
    with model.explain_memory(advice):
        engine = _make_file_engine(model, made, a)
    for number, request in enumerate(made):
        if number % count in (0, count - 1):  # of a prompt the first seed, and the last
            with _name_prompt(number // count + 1, a["prompts"]):
                engine.check(request)  # now, and not after hours
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
    for one in made[:1]:  # which decides how large an engine is
        check_lengths(model.spec.max_seq_len, one.prompt, one.max_tokens, one.context_overflow)
    return made


@contextmanager
def _name_prompt(number: int, file: str | Path) -> Iterator[None]:
    """A block whose errors name the prompt of a file that they are about."""
    try:
        yield
    except HermesError as error:
        raise HermesError(f"prompt {number} of {file}: {error}") from error


def _name_settings(model: Model, arguments: Mapping[str, Any]) -> str:
    """A short name of all that decides the texts, so that a file has those of one setting."""
    elsewhere = ("prompts", "output", "batch_size", "backend", "device", "tokenizer", "checkpoint")
    told = {name: value for name, value in arguments.items() if name not in elsewhere}
    if told.pop("batch_invariant", False):  # left out, so that files of earlier versions go on
        told["batch_invariant"] = arguments["batch_size"]  # which the bits may depend on
    text = json.dumps([str(model.path), told], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
