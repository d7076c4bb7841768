"""Make the golden folder again: `python -m hermes_conformance.golden.regenerate FOLDER`.

It takes a few minutes, as a gradient of the oracle is one complex step per weight. Two folders may
be 1e-13 apart (`compare_folders`): another processor adds in another order.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from hermes.interface import Batch
from hermes.storage.safetensors import TensorFile, describe_tensors, encode_tensors
from hermes.training.schedule import compute_lr
from hermes_conformance.cases.case import Case
from hermes_conformance.golden import hashes
from hermes_conformance.golden.vectors import (
    RUN_STEPS,
    describe_case,
    get_file_name,
    hash_files,
    make_run_cases,
    make_vector_cases,
)
from hermes_conformance.measure.compare import rms
from hermes_conformance.oracle import complex_step
from hermes_conformance.oracle.trajectory import train_oracle
from hermes_numpy.backend import BACKEND as ORACLE

Arrays = dict[str, np.ndarray]


def _collect_batch(batch: Batch) -> Arrays:
    arrays: Arrays = {"tokens": batch.tokens, "targets": batch.targets, "rows": batch.rows}
    if batch.segments is not None:
        arrays["segments"] = batch.segments
    if batch.pairs is not None:
        arrays["reference"] = batch.pairs.reference
    return arrays


def _name_arrays(prefix: str, arrays: Mapping[str, ArrayLike]) -> Arrays:
    return {f"{prefix}.{name}": np.asarray(value) for name, value in arrays.items()}


def make_vectors(case: Case) -> Arrays:
    """A case's weights and batch, and the oracle's logits, loss and gradient."""
    model = ORACLE.build(case.spec, case.weights)
    loss, gradient = complex_step.compute_gradient(case.spec, case.params, case.batch, case.dropout)
    return {
        **_name_arrays("weights", case.params),
        **_name_arrays("batch", _collect_batch(case.batch)),
        "logits": model.logits(case.tokens, case.segments),
        "loss": np.array([loss]),
        **_name_arrays("gradient", gradient),
    }


def make_run(case: Case) -> Arrays:
    """A case's weights, the batches and learning rates of a run, and the oracle's run with them."""
    trajectory = train_oracle(case, RUN_STEPS)
    batches = [_collect_batch(case.make_batch(step)) for step in range(RUN_STEPS)]
    stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    rates = [compute_lr(case.recipe, step, RUN_STEPS) for step in range(RUN_STEPS)]
    return {
        **_name_arrays("weights", case.params),
        **_name_arrays("batch", stacked),
        "rates": np.array(rates),
        "losses": trajectory.losses,
        "norms": trajectory.norms,
        **_name_arrays("after", trajectory.state.params),
        **_name_arrays("exp_avg", trajectory.state.exp_avg),
        **_name_arrays("exp_avg_sq", trajectory.state.exp_avg_sq),
    }


def write_tensors(path: Path, arrays: Arrays) -> None:
    """Write tensors as hermes's own checkpoint writer does, to the byte."""
    with path.open("wb") as file:
        for chunk in encode_tensors(arrays, describe_tensors(arrays)):
            file.write(chunk)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def regenerate(folder: Path) -> None:
    """Write every file of the folder; tokenizer.json is data: it is copied if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.exists():
        tokenizer.write_bytes((hashes.find_golden_folder() / "tokenizer.json").read_bytes())
    for case in make_vector_cases():
        write_tensors(folder / get_file_name(case), make_vectors(case))
    for case in make_run_cases():
        write_tensors(folder / get_file_name(case), make_run(case))
    every = (*make_vector_cases(), *make_run_cases())
    _write_json(folder / "cases.json", {case.name: describe_case(case) for case in every})
    _write_json(folder / "pins.json", hashes.compute_pins())
    lines = [f"{digest}  {name}\n" for name, digest in hash_files(folder).items()]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="ascii")


def compare_folders(one: Path, other: Path) -> dict[str, float]:
    """Largest relative distance between the tensors of two folders, by file name."""
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
