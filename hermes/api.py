"""The public face: what `import hermes` offers, over the parts that do the work."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hermes import mal
from hermes.checkpoint import RetentionPolicy
from hermes.data import expand_paths, read_documents
from hermes.interface import Backend, Options, choose_backend
from hermes.interop.hub import load_tokenizer
from hermes.recipe import OptimizerRecipe
from hermes.spec import ModelSpec
from hermes.tokenizer import SPECIAL_TOKENS, Tokenizer
from hermes.tokenizer import train_tokenizer as learn_tokenizer
from hermes.training.events import Evaluation, Event, Saved, Stopped, Update
from hermes.training.run import Run, RunRequest, open_run

__all__ = ["Result", "backend", "collect", "load_spec", "train", "train_tokenizer"]


def load_spec(source: str | Path) -> ModelSpec:
    """An architecture: a bundled name, a MAL file, a checkpoint's folder, or MAL text.

    Raises MalError and HermesError.
    """
    return mal.load(source)


def backend(name: str = "auto") -> Backend:
    """A backend by name; "auto" is mlx on Apple silicon, torch elsewhere, else the one there is.

    Raises MissingBackend, with what to install.
    """
    return choose_backend(name)


def train_tokenizer(
    inputs: str | Path | Sequence[str | Path],
    *,
    vocab_size: int = 32_000,
    preset: str = "gpt-2",
    normalize_nfc: bool = False,
    fold_ascii: bool = False,
    text_field: str = "text",
    file_format: str | None = None,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
) -> Tokenizer:
    """Learn a byte-level BPE from files of text (.txt, .jsonl, .json, .csv). Raises DataError.

    preset: how text is split before merging, 'gpt-2', 'llama-bpe' or 'qwen2'. special_tokens: the
    names of all of them.
    """
    found = read_documents(expand_paths(inputs), text_field=text_field, file_format=file_format)
    return learn_tokenizer(
        (document.text for document in found),
        vocab_size=vocab_size,
        preset=preset,
        normalize_nfc=normalize_nfc,
        fold_ascii=fold_ascii,
        special_tokens=special_tokens,
    )


@dataclass(frozen=True)
class Result:
    """What came of `train`. Losses are of the last update and evaluation, in nats per token.

    finished: False where it was stopped; the run is saved and goes on with resume=True.
    """

    output: Path
    checkpoint: Path
    steps: int
    finished: bool
    loss: float | None = None
    val_loss: float | None = None
    val_bits_per_byte: float | None = None


def train(
    spec: ModelSpec | str | Path,
    data: str | Path | Sequence[str | Path],
    *,
    tokenizer: Tokenizer | str | Path,
    output: str | Path,
    backend: str = "auto",
    device: str | None = None,
    precision: str = "float32",
    compile: bool | None = None,
    grad_checkpoint: bool = False,
    deterministic: bool = False,
    resume: bool = False,
    allow_batch_change: bool = False,
    log_every: int | None = None,
    keep: RetentionPolicy | None = None,
    text_field: str = "text",
    file_format: str | None = None,
    report: Callable[[Event], None] = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
    lr: float | None = None,
    batch_size: int | None = None,
    grad_accum: int | None = None,
    epochs: float | None = None,
    max_steps: int | None = None,
    seq_len: int | None = None,
    schedule: str | None = None,
    warmup_steps: int | None = None,
    min_lr_ratio: float | None = None,
    decay_ratio: float | None = None,
    grad_clip: float | None = None,
    seed: int | None = None,
    val_fraction: float | None = None,
    eval_every: int | None = None,
    save_every: int | None = None,
    freeze_layers: int | None = None,
    optimizer: OptimizerRecipe | None = None,
) -> Result:
    """Train from scratch, or with `resume` go on with the run in `output`.

    Everything from `lr` on is a field of `hermes.Recipe`; None takes its default, or when resuming
    what the run has; allow_batch_change lets updates take more samples or fewer. report is given
    every event; stop is polled after every update. Raises HermesError of every kind; what was
    saved stays.
    """
    given = {
        "lr": lr,
        "batch_size": batch_size,
        "grad_accum": grad_accum,
        "epochs": epochs,
        "max_steps": max_steps,
        "seq_len": seq_len,
        "schedule": schedule,
        "warmup_steps": warmup_steps,
        "min_lr_ratio": min_lr_ratio,
        "decay_ratio": decay_ratio,
        "grad_clip": grad_clip,
        "seed": seed,
        "val_fraction": val_fraction,
        "eval_every": eval_every,
        "save_every": save_every,
        "freeze_layers": freeze_layers,
    }
    if optimizer is not None:
        given |= {f"optimizer.{name}": value for name, value in vars(optimizer).items()}
    names = [data] if isinstance(data, str | Path) else list(data)
    request = RunRequest(
        output=Path(output),
        data=tuple(map(str, names)),
        backend=choose_backend(backend),
        spec=spec if isinstance(spec, ModelSpec) else load_spec(spec),
        tokenizer=tokenizer if isinstance(tokenizer, Tokenizer) else load_tokenizer(tokenizer),
        options=Options(
            device=device,
            precision=precision,
            compile=compile,
            grad_checkpoint=grad_checkpoint,
            deterministic=deterministic,
        ),
        given={name: value for name, value in given.items() if value is not None},
        resume=resume,
        allow_batch_change=allow_batch_change,
        log_every=log_every,
        keep=keep or RetentionPolicy(),
        text_field=text_field,
        file_format=file_format,
        settings={"data": names},
    )
    with open_run(request) as run:
        return collect(run, report, stop)


def collect(run: Run, report: Callable[[Event], None], stop: Callable[[], bool]) -> Result:
    """Train a run to its end, or until `stop`, handing each event on."""
    progress = run.checkpoint.progress if run.checkpoint else None
    step, path = run.position.step, run.checkpoint.path if run.checkpoint else run.request.output
    known = dict(progress.metrics) if progress else {}
    finished = True
    for event in run.events(stop):
        report(event)
        match event:
            case Update():
                known["loss"] = event.loss
            case Evaluation():
                known["val_loss"] = event.val_loss
                if event.val_bits_per_byte is not None:
                    known["val_bits_per_byte"] = event.val_bits_per_byte
            case Saved():
                step, path = event.step, event.path
            case Stopped():
                finished = False
    return Result(
        run.request.output,
        path,
        step,
        finished,
        known.get("loss"),
        known.get("val_loss"),
        known.get("val_bits_per_byte"),
    )
