"""Makes the golden folder: `python -m hermes_conformance.golden.regenerate FOLDER`.

Takes a few minutes: whole gradients of the oracle are one complex step per weight. `compare` says
how far two folders are apart, which must be at most 1e-13.
"""

import json
import sys
from pathlib import Path

import numpy as np

from hermes.interface import Batch
from hermes.storage.safetensors import TensorFile, describe_tensors, encode_tensors
from hermes.training.schedule import compute_lr
from hermes_conformance.cases.case import Case
from hermes_conformance.golden import hashes
from hermes_conformance.golden.vectors import (
    RUN_STEPS,
    described,
    file_name,
    run_cases,
    sums,
    vector_cases,
)
from hermes_conformance.measure.compare import rms
from hermes_conformance.oracle import complex_step
from hermes_conformance.oracle.trajectory import oracle_train
from hermes_numpy.backend import BACKEND as ORACLE

Arrays = dict[str, np.ndarray]


def _batch(batch: Batch) -> Arrays:
    found = {"tokens": batch.tokens, "targets": batch.targets, "rows": batch.rows}
    if batch.segments is not None:
        found["segments"] = batch.segments
    if batch.pairs is not None:
        found["reference"] = batch.pairs.reference
    return found


def _named(prefix: str, arrays) -> Arrays:
    return {f"{prefix}.{name}": np.asarray(value) for name, value in arrays.items()}


def vectors(case: Case) -> Arrays:
    """Weights and tokens, and the oracle's logits, loss and gradient."""
    model = ORACLE.build(case.spec, case.weights)
    loss, gradient = complex_step.gradient(case.spec, case.params, case.batch, case.dropout)
    return {
        **_named("weights", case.params),
        **_named("batch", _batch(case.batch)),
        "logits": model.logits(case.tokens, case.segments),
        "loss": np.array([loss]),
        **_named("gradient", gradient),
    }


def run(case: Case) -> Arrays:
    """Weights and every update's tokens and rate, and the oracle's run with them."""
    found = oracle_train(case, RUN_STEPS)
    updates = [_batch(case.update(step)) for step in range(RUN_STEPS)]
    stacked = {name: np.stack([update[name] for update in updates]) for name in updates[0]}
    rates = [compute_lr(case.recipe, step, RUN_STEPS) for step in range(RUN_STEPS)]
    return {
        **_named("weights", case.params),
        **_named("batch", stacked),
        "rates": np.array(rates),
        "losses": found.losses,
        "norms": found.norms,
        **_named("after", found.state.params),
        **_named("exp_avg", found.state.exp_avg),
        **_named("exp_avg_sq", found.state.exp_avg_sq),
    }


def write(path: Path, arrays: Arrays) -> None:
    """One file, in the bytes that hermes's own writer gives it."""
    with path.open("wb") as file:
        for chunk in encode_tensors(arrays, describe_tensors(arrays)):
            file.write(chunk)


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def regenerate(folder: Path) -> None:
    """Every file of the folder; tokenizer.json, which is data, is there already or copied."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.exists():
        tokenizer.write_bytes((hashes.golden_folder() / "tokenizer.json").read_bytes())
    for case in vector_cases():
        write(folder / file_name(case), vectors(case))
    for case in run_cases():
        write(folder / file_name(case), run(case))
    every = (*vector_cases(), *run_cases())
    _json(folder / "cases.json", {case.name: described(case) for case in every})
    _json(folder / "pins.json", hashes.pins())
    lines = [f"{digest}  {name}\n" for name, digest in sums(folder).items()]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="ascii")


def compare(one: Path, other: Path) -> dict[str, float]:
    """The greatest relative distance between the tensors of two folders, file by file."""
    apart = {}
    for path in sorted(one.glob("*.safetensors")):
        first, second = TensorFile(path), TensorFile(other / path.name)
        assert set(first) == set(second), f"{path.name} holds other tensors"
        apart[path.name] = max(
            rms(first[name].astype(float) - second[name]) / (rms(first[name]) or 1.0)
            for name in first
        )
    return apart


if __name__ == "__main__":
    regenerate(Path(sys.argv[1]))
