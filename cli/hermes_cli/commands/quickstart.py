"""`hermes quickstart`: from text to a trained model, on a text that comes with Python.

Trains a tokenizer, the first half of a run on one backend and the second half on the other, from
its checkpoint; then generates text, plots the loss, and compares both backends with the oracle.
"""

import json
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hermes.errors import HermesError, StorageError, explain_os_error
from hermes.storage.durable import Disk, delete_folder, write_atomically
from hermes_cli.options.declarations import declare_command

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hermes.model import Model
    from hermes.spec import ModelSpec
    from hermes.tokenizer import Tokenizer
    from hermes.training.events import Event

ARCHITECTURE = """\
# A small Llama.
model quickstart {
  max_seq_len: 256
  hidden_size: 128
  num_layers: 4
  block {
    attention { num_heads: 4  num_kv_heads: 2  position_encoding: rope { theta: 10000 } }
    ffn { hidden_dim: 352  activation: swiglu }
    norm: rmsnorm { eps: 1e-5 }
  }
  embeddings { tie_weights: true }
}
"""
VOCABULARY = 1024
STEPS = 300
# What quickstart writes, and all that it deletes when it is run again.
OWN = (
    "data.json",
    "tokenizer.manifest.json",
    *("text.jsonl", "model.mal", "tokenizer.json", "tokenizer_config.json"),
    *("run.yaml", "metrics.jsonl", "plots", ".lock"),
)


@declare_command("quickstart")
def quickstart(output: Path) -> None:
    """Go from text to a trained model in a few minutes.

    Trains a tokenizer and a small model on Python's reference manual, half of the steps on each
    backend that is installed, then generates text, plots the loss, and compares the logits of the
    backends with those of a float64 reference. A CPU is enough.
    """
    from hermes import mal
    from hermes.api_tokenizer import train_tokenizer

    _check_output(output)
    first, second = _choose_backends()
    if output.exists():
        delete_folder(output, Disk())
    text = _write_text(output)
    _say(f"text: Python's reference manual, {text.stat().st_size:,} bytes")
    tokenizer = train_tokenizer(text, vocab_size=VOCABULARY)
    spec = mal.loads(ARCHITECTURE)
    write_atomically(output / "model.mal", ARCHITECTURE.encode("utf-8"))
    _say(f"tokenizer: {tokenizer.vocab_size:,} tokens, byte-level BPE")
    if first != second:
        _say(f"{STEPS // 2} steps on {first}, the other {STEPS - STEPS // 2} on {second}")
    else:
        other = "mlx" if first == "torch" else "torch"
        _say(f"{STEPS} steps on {first}, stopped and resumed half way; to see {other} take over")
        _say(f"the second half: pip install 'hermes-llm[{other}]'")
    _train(output, text, spec, tokenizer, first, half=True)
    _train(output, text, spec, tokenizer, second, half=False)
    _show_loss(output)
    _show_text(output, [first, second])
    _show_proof(output, text, [first, second])
    _say(f"checkpoints, metrics and plots are in {output}; another text from the same model:")
    _say(f'  hermes generate --checkpoint {output} --prompt "The" --seed 2')


def _say(words: str) -> None:
    click.echo(words, err=True)


def _choose_backends() -> tuple[str, str]:
    """The backend of each half: the default one, then the other one if it is installed."""
    from hermes.errors import MissingBackend
    from hermes.interface import choose_backend

    first = choose_backend("auto").name
    second = "mlx" if first == "torch" else "torch"
    try:
        return first, choose_backend(second).name
    except MissingBackend:
        return first, first


def _check_output(output: Path) -> None:
    """Refuse a folder with anything but what an earlier quickstart left. Raises HermesError."""
    if not output.exists():
        return
    if not output.is_dir():
        raise HermesError(f"output {str(output)!r} is a file; choose a folder")
    ours = (output / "text.jsonl").exists()
    for entry in output.iterdir():
        mine = entry.name in OWN or entry.name.startswith(("step-", "documents-", ".tmp-"))
        if not ours or not mine:
            raise HermesError(
                f"output {str(output)!r} has {entry.name!r} in it, which no earlier "
                "quickstart wrote; choose another with --output"
            )


def _write_text(output: Path) -> Path:
    """Write Python's reference manual as one document per topic, sorted by name."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise HermesError(
            f"this Python came without its manual, pydoc_data ({error}); use `hermes train` with a "
            "text of your own"
        ) from None
    path = output / "text.jsonl"
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = explain_os_error(error)
        raise StorageError(f"cannot write {path}: {reason}") from error
    lines = [json.dumps({"text": topics[name]}) + "\n" for name in sorted(topics)]
    write_atomically(path, "".join(lines).encode("utf-8"))
    return path


def _train(
    output: Path, text: Path, spec: "ModelSpec", tokenizer: "Tokenizer", backend: str, *, half: bool
) -> None:
    from hermes.api import train
    from hermes.training.events import Update
    from hermes.training.progress_bar import open_progress

    progress = open_progress(STEPS, 0 if half else STEPS // 2)
    latest = 0

    def report(event: "Event") -> None:
        nonlocal latest
        if isinstance(event, Update):
            latest = event.step
        progress.show(event)

    try:
        train(
            spec,
            text,
            tokenizer=tokenizer,
            output=output,
            backend=backend,
            # The folder already has the text in it, which only a run that may resume accepts.
            resume=True,
            report=report,
            # Polled after each step, before the step is reported.
            stop=lambda: half and latest == STEPS // 2 - 1,
            max_steps=STEPS,
            seq_len=128,
            batch_size=16,
            lr=4e-3,
            schedule="cosine",
            warmup_steps=20,
            val_fraction=0.05,
            eval_every=STEPS // 6,
        )
    finally:
        progress.close()


def _show_loss(output: Path) -> None:
    from hermes.training.plot import draw_png, draw_text, read_curves
    from hermes_cli.commands.plot import can_show_braille

    (one,) = read_curves([output])
    click.echo()
    click.echo(draw_text(one, width=76, braille=can_show_braille()))
    click.echo()
    try:
        draw_png([one], output / "plots" / "loss.png")
    except HermesError as error:
        _say(str(error))


def _show_text(output: Path, backends: list[str]) -> None:
    from hermes.model_loading import load

    texts = {name: load(output, name).generate("The", max_tokens=80, seed=1) for name in backends}
    click.echo("The" + texts[backends[-1]])
    click.echo()
    if len(texts) > 1:
        same = "the same" if len(set(texts.values())) == 1 else "not the same"
        click.echo(f"the text of seed 1 is {same} on {' and '.join(texts)}")


def _show_proof(output: Path, text: Path, backends: list[str]) -> None:
    """Print the validation loss beside the unigram entropy, and how far the backends are apart."""
    import numpy as np

    from hermes.data import TextDataset, read_documents, tokenize
    from hermes.model_loading import load

    names = [*dict.fromkeys(backends), "numpy"]
    precision = {"numpy": "float64"}
    models = {name: load(output, name, precision=precision.get(name, "float32")) for name in names}
    model: Model = models["numpy"]
    with tokenize(read_documents(text), model.tokenizer) as stream:
        data = TextDataset(stream, seq_len=128, vocab_size=model.spec.vocab_size, val_fraction=0.05)
        first = data.held_out.start * 128
        held_out = np.array(stream.tokens[first + 1 : first + 1 + len(data.held_out) * 128])
    counts = np.bincount(held_out)
    shares = counts[counts > 0] / len(held_out)
    loss = _read_last_loss(output)
    click.echo(
        f"validation loss {loss:.3f} nats per token; the unigram entropy of the same tokens is "
        f"{-(shares * np.log(shares)).sum():.3f}"
    )
    rows = held_out[: 2 * 128].reshape(2, 128).astype(np.int32)
    logits = {name: models[name].logits(rows).astype(np.float64) for name in names}
    scale = _compute_rms(logits["numpy"])
    click.echo("logits on the trained weights in float32, differences as a share of their rms:")
    labels = {"numpy": "the float64 oracle"}
    for a, b in sorted(combinations(names, 2), key=lambda pair: "numpy" not in pair):
        distance = _compute_rms(logits[a] - logits[b]) / scale
        click.echo(f"  {a} and {labels.get(b, b)}: {distance:.1e}")


def _read_last_loss(output: Path) -> float:
    from hermes.training.metrics_file import read_metrics

    return next(r["val_loss"] for r in reversed(read_metrics(output)) if "val_loss" in r)


def _compute_rms(values: "NDArray[np.float64]") -> float:
    return float((values**2).mean() ** 0.5)
