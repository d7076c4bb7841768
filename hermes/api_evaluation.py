"""The public function that judges a trained model: evaluate."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hermes.arguments import convert_arguments, name_own_arguments
from hermes.call_display import display_call
from hermes.chat_templates.template import Template
from hermes.data import TextFormat
from hermes.data.dataset import count_target_bytes
from hermes.data.file_names import require_present
from hermes.data.loading import DataOptions, load_tokens
from hermes.data.token_stream import TokenStream
from hermes.errors import DataError, HermesError
from hermes.evaluation.perplexity import Perplexity, add_up, evaluate_perplexity, make_windows
from hermes.finetuning.base_model import open_base_model
from hermes.formatting import format_count
from hermes.interop.hub import load_tokenizer, require_model_present
from hermes.model import Model
from hermes.model_loading import load
from hermes.tasks.evaluation import TaskOptions, evaluate_tasks, require_harness, split_names
from hermes.tasks.scores import TaskScore
from hermes.tokenizer import Tokenizer

__all__ = ["EvalResult", "evaluate"]


@dataclass(frozen=True)
class EvalResult:
    """How well a model predicts a text, and answers the questions of tasks.

    val_loss: nats per token. name: what was given as `data`, "" for all of it. files: the result of
    each, where several were given. tasks: their scores. Without a text, tokens is 0 and the numbers
    before it are not a number.
    """

    val_loss: float = math.nan
    perplexity: float = math.nan
    bits_per_byte: float = math.nan
    tokens: int = 0
    name: str = ""
    files: tuple["EvalResult", ...] = ()
    tasks: tuple[TaskScore, ...] = ()

    def __repr__(self) -> str:
        if not self.tokens:
            told = (f"{one.task} {one.metric} {one.value:.4f}" for one in self.tasks)
            return f"EvalResult({', '.join(told)})"
        return f"EvalResult({self.describe()})"

    def describe(self) -> str:
        """A line about the text."""
        name = f"{self.name}: " if self.name else ""
        return (
            f"{name}loss {self.val_loss:.4f} nats per token, perplexity {self.perplexity:,.2f}, "
            f"{self.bits_per_byte:.4f} bits per byte, {format_count(self.tokens, 'tokens')}"
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON has it, without what is empty."""
        numbers = ("val_loss", "perplexity", "bits_per_byte", "tokens")
        told: dict[str, Any] = {name: getattr(self, name) for name in numbers if self.tokens}
        if self.name:
            told["name"] = self.name
        if self.files:
            told["files"] = [one.to_json() for one in self.files]
        if self.tasks:
            told["tasks"] = [asdict(one) for one in self.tasks]
        return told


@name_own_arguments
def evaluate(
    checkpoint: str | Path,
    data: str | Path | Sequence[str | Path] = (),
    *,
    config: str | Path | None = None,
    ignore_fields: Sequence[str] = (),
    use_ema: bool = False,
    tokenizer: str | Path | Tokenizer | None = None,
    eos: str | None = None,
    bos: bool | None = None,
    text_field: str = "text",
    format: str | None = None,
    documents: str = "file",
    no_header: bool = False,
    skip_bad_records: bool = False,
    max_bad_records: float = 0.01,
    cache_dir: str | Path | None = None,
    seq_len: int | None = None,
    batch_size: int = 32,
    tasks: str | Sequence[str] = (),
    include_path: str | Path | None = None,
    num_fewshot: int | None = None,
    limit: float | None = None,
    apply_chat_template: bool = False,
    backend: str = "auto",
    device: str | None = None,
    precision: str = "auto",
    force: bool = False,
    verbose: bool = False,
    quiet: bool = False,
    log_file: str | Path | None = None,
) -> EvalResult:
    """The loss, perplexity and bits per byte of a model on texts, and its scores on tasks.

    checkpoint to bos, force: as in `load`. data to cache_dir: as in `train`. Each of several names,
    of a file or a folder, has a result of its own, and what is said of all counts each token once.
    seq_len: tokens per row, None for the run's, else 256 or the model's max_seq_len.

    tasks: names of lm-evaluation-harness's tasks, groups and tags, as a list or 'hellaswag,mmlu'
    (extra `tasks`). include_path: a folder with tasks of one's own. num_fewshot: solved examples
    before each question, None for as many as the task says, which may also fix them at 0. limit:
    questions of each task; below 1 a share of them. apply_chat_template: questions are messages,
    written with the checkpoint's chat template.

    verbose: a line for each stage and result; quiet: nothing but warnings and errors; log_file:
    gets these lines, too. Raises HermesError of every kind.
    """
    a = convert_arguments(evaluate, locals())
    names = [data] if isinstance(data, str | Path) else list(data)
    if not names and not a["tasks"]:
        raise HermesError("no data: give data=FILE, a folder or a list of files, or tasks")
    with display_call(
        f"eval {checkpoint}",
        verbose=a["verbose"],
        quiet=a["quiet"],
        log_file=log_file,
    ) as say:
        return _evaluate(a, names, say)


def _evaluate(
    a: Mapping[str, Any], names: Sequence[str | Path], say: Callable[[str], None]
) -> EvalResult:
    """Evaluate as the arguments say. say: takes a line for each result."""
    asked = _choose_tasks(a)
    options = DataOptions(
        TextFormat(a["text_field"], a["format"], a["documents"], a["no_header"]),
        a["max_bad_records"] if a["skip_bad_records"] else None,
        Path(a["cache_dir"]) if a["cache_dir"] else None,
        tell=lambda line: warnings.warn(line, stacklevel=5),
        force=a["force"],
    )
    require_model_present(a["checkpoint"])
    require_present(names)
    model = load(
        a["checkpoint"], a["backend"], a["device"], a["precision"], config=a["config"],
        tokenizer=a["tokenizer"], ignore_fields=a["ignore_fields"], eos=a["eos"], bos=a["bos"],
        force=a["force"], use_ema=a["use_ema"],
    )  # fmt: skip
    found = EvalResult()
    if names:
        length = _find_seq_len(model) if a["seq_len"] is None else a["seq_len"]
        texts = [str(name) for name in names]
        found = _evaluate_texts(model, texts, options, length, a["batch_size"], say)
    if asked is not None:
        with model.explain_memory("a smaller --batch-size or fewer --num-fewshot"):
            scores = evaluate_tasks(model, asked, a["batch_size"])
        found = replace(found, tasks=scores)
        for one in found.tasks:
            say(f"{one.task} {one.metric}: {one.value:.4f}")
    return found


def _choose_tasks(a: Mapping[str, Any]) -> TaskOptions | None:
    """The tasks of a call, None without any. Raises HermesError."""
    given = ("include_path", "num_fewshot", "limit")
    if not a["tasks"]:
        for name in given:
            if a[name] is not None:
                raise HermesError(f"--{name.replace('_', '-')} belongs to --tasks; name some")
        if a["apply_chat_template"]:
            raise HermesError("--apply-chat-template belongs to --tasks; name some")
        return None
    require_harness()
    folder = None if a["include_path"] is None else Path(a["include_path"])
    template = _open_template(a) if a["apply_chat_template"] else None
    return TaskOptions(split_names(a["tasks"]), folder, a["num_fewshot"], a["limit"], template)


def _open_template(a: Mapping[str, Any]) -> Template:
    """The checkpoint's chat template. Raises HermesError where it has none."""
    given = a["tokenizer"]
    base = open_base_model(
        a["checkpoint"],
        config=a["config"],
        ignore_fields=a["ignore_fields"],
        tokenizer=load_tokenizer(given) if isinstance(given, str | Path) else given,
        eos=a["eos"],
        bos=a["bos"],
        chat=False,
        train=False,
    )
    if "chat_template" not in base.settings:
        raise HermesError(
            f"{base.path} has no chat template; leave --apply-chat-template out, or put a "
            "chat_template.jinja beside the weights"
        )
    return base.template


def _evaluate_texts(
    model: Model,
    names: Sequence[str],
    options: DataOptions,
    seq_len: int,
    batch_size: int,
    say: Callable[[str], None],
) -> EvalResult:
    with ExitStack() as stack:
        # All are opened before the first is evaluated, so that a wrong name costs no time.
        streams = [
            stack.enter_context(load_tokens([name], model.tokenizer, options)) for name in names
        ]
        for name, stream in zip(names, streams, strict=True):
            if len(names) > 1 and len(stream.tokens) < 2:
                raise DataError(
                    f"{name} has {len(stream.tokens)} token; there is nothing to predict"
                )
        found = []
        for number, (name, stream) in enumerate(zip(names, streams, strict=True), start=1):
            which = f" {number} of {len(names)}" if len(names) > 1 else ""
            stage = f"evaluating{which}, tokens"
            found.append(_evaluate_stream(model, stream, seq_len, batch_size, stage))
            say(_make_result(found[-1], name).describe())
    files = tuple(map(_make_result, found, names)) if len(names) > 1 else ()
    return _make_result(add_up(found), "", files)


def _evaluate_stream(
    model: Model, stream: TokenStream, seq_len: int, batch_size: int, stage: str
) -> Perplexity:
    size = len(stream)
    with model.explain_memory("a smaller --batch-size or shorter --seq-len"):
        found = evaluate_perplexity(
            model.backend_model,
            make_windows(stream.read, size, seq_len, batch_size),
            count_target_bytes(stream, 0, size, model.tokenizer.count_bytes),
            stage=stage,
            num_tokens=size - 1,
        )
    assert found is not None, "nothing stops it"
    return found


def _make_result(found: Perplexity, name: str, files: tuple[EvalResult, ...] = ()) -> EvalResult:
    return EvalResult(found.loss, found.perplexity, found.bits_per_byte, found.tokens, name, files)


def _find_seq_len(model: Model) -> int:
    """The length that the model was trained with, where a run of hermes wrote it."""
    from hermes.checkpoint import open_checkpoint

    folder = model.path
    if folder is not None and (folder / "progress.json").is_file():
        return open_checkpoint(folder, hashes=False).progress.recipe.seq_len
    return min(256, model.spec.max_seq_len)
