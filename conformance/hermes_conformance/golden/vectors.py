"""The cases that golden vectors are made of, and reading them back."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from hermes.checkpoint import TensorFile
from hermes.interface import Batch, PreferencePairs, TrainState
from hermes.mal import dumps, loads
from hermes.recipe import Lora, OptimizerRecipe, Preference, Recipe
from hermes.spec import (
    Alibi,
    AttentionSpec,
    BlockSpec,
    EmbeddingsSpec,
    FfnSpec,
    LayerNorm,
    Learned,
    Llama3Scaling,
    ModelSpec,
    OutputSpec,
    RMSNorm,
    Rope,
    YarnScaling,
)
from hermes_conformance.cases.case import RECIPE, Case
from hermes_conformance.cases.weights import hot
from hermes_conformance.golden.hashes import golden_folder
from hermes_conformance.oracle.trajectory import Trajectory

RUN = replace(RECIPE, schedule="cosine", warmup_steps=3, lr=1e-2, grad_clip=0.5, min_lr_ratio=0.05)
RUN_STEPS = 30


def _spec(attention, ffn, layers=2, embeddings=None, output=None, **block) -> ModelSpec:
    return ModelSpec(
        blocks=(BlockSpec(attention, ffn, **block),),
        name="golden",
        vocab_size=17,
        max_seq_len=16,
        hidden_size=8,
        num_layers=layers,
        embeddings=embeddings or EmbeddingsSpec(),
        output=output or OutputSpec(),
    )


@cache
def vector_cases() -> tuple[Case, ...]:
    """One for each family of architectures, one with dropout, one of preferences."""
    tied = EmbeddingsSpec(tie_weights=True)
    llama = _spec(AttentionSpec(4, 2), FfnSpec(12))
    specs = {
        "llama": llama,
        "llama3": _spec(
            AttentionSpec(2, 1, position_encoding=Rope(scaling=Llama3Scaling(8.0, 1.0, 4.0, 16))),
            FfnSpec(12),
        ),
        "yarn": _spec(
            AttentionSpec(2, 2, position_encoding=Rope(scaling=YarnScaling(4.0, 16))), FfnSpec(12)
        ),
        "qwen": _spec(
            AttentionSpec(2, 1, bias="qkv", qk_norm="head"), FfnSpec(12), embeddings=tied
        ),
        "olmo": _spec(AttentionSpec(2, qk_norm="flat"), FfnSpec(12), norm_position="output"),
        "gemma": _spec(
            AttentionSpec(2, 1, softcap=5.0, scale=0.4, window_size=4),
            FfnSpec(12, "geglu"),
            embeddings=replace(tied, scale=8**0.5),
            output=OutputSpec(softcap=4.0),
            norm=RMSNorm(1e-6, unit_offset=True),
            norm_position="sandwich",
        ),
        "gpt2": _spec(
            AttentionSpec(2, bias="all", position_encoding=Learned()),
            FfnSpec(12, "gelu_tanh", bias=True),
            embeddings=tied,
            norm=LayerNorm(),
        ),
        "bloom": _spec(
            AttentionSpec(3, head_dim=4, position_encoding=Alibi()),
            FfnSpec(12, "gelu"),
            norm=LayerNorm(bias=False),
            parallel=True,
            output=OutputSpec(bias=True),
        ),
        "first": _spec(
            AttentionSpec(2, causal=False, position_encoding=Learned()),
            FfnSpec(12, "relu2"),
            norm_position="post",
        ),
        "dropout": _spec(
            AttentionSpec(2, dropout=0.2),
            FfnSpec(12, dropout=0.3),
            dropout=0.1,
            embeddings=EmbeddingsSpec(dropout=0.15),
        ),
    }
    made = [
        Case(f"golden.{name}/hot", spec, hot, T=8, packed=name in ("llama3", "gpt2"))
        for name, spec in specs.items()
    ]
    pairs = replace(RECIPE, objective="preference", preference=Preference(beta=0.5))
    return (*made, Case("golden.preference/hot", llama, hot, B=4, T=8, recipe=pairs))


@cache
def run_cases() -> tuple[Case, ...]:
    """Models small enough that the oracle trains them: one layer, about 150 weights."""
    gpt2 = _spec(
        AttentionSpec(2, bias="all", position_encoding=Learned(), dropout=0.2),
        FfnSpec(6, "gelu", bias=True),
        1,
        EmbeddingsSpec(tie_weights=True),
        OutputSpec(bias=True),
        norm=LayerNorm(),
    )
    llama = _spec(AttentionSpec(2, 1), FfnSpec(6, dropout=0.1), 1)
    made = []
    for name, spec in (("gpt2", gpt2), ("llama", llama)):
        small = replace(spec, vocab_size=7, max_seq_len=8, hidden_size=4)
        made.append(Case(f"run.{name}/hot", small, hot, T=6, recipe=RUN))
    return tuple(made)


@dataclass(frozen=True)
class Vectors:
    """A case as its file holds it, and the oracle's answers. A run has a trajectory instead."""

    case: Case
    logits: np.ndarray | None
    loss: float
    gradient: dict[str, np.ndarray]
    run: Trajectory | None
    updates: tuple[Batch, ...]
    rates: np.ndarray


def file_name(case: Case) -> str:
    """`llama.safetensors` of `golden.llama/hot`, `run-llama.safetensors` of `run.llama/hot`."""
    return case.name.removesuffix("/hot").removeprefix("golden.").replace(".", "-") + ".safetensors"


def described(case: Case) -> dict[str, object]:
    """What cases.json says of a case."""
    return {
        "file": file_name(case),
        "mal": dumps(case.spec),
        "recipe": asdict(case.recipe),
        "dropout": list(case.dropout) if case.dropout else None,
    }


def read_recipe(value: dict) -> Recipe:
    """The recipe of cases.json."""
    parts = {"optimizer": OptimizerRecipe, "preference": Preference}
    made = {name: cls(**value[name]) for name, cls in parts.items()}
    lora = None if value["lora"] is None else Lora(**value["lora"])
    rest = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items() if k not in made}
    return Recipe(**{**rest, **made, "lora": lora})


def _under(file, prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): file[name] for name in file if name.startswith(prefix)}


def _batch(arrays: dict[str, np.ndarray], recipe: Recipe, step: int | None) -> Batch:
    def at(name):
        if name not in arrays:
            return None
        return arrays[name] if step is None else arrays[name][step]

    reference = at("reference")
    pairs = None if reference is None else PreferencePairs(reference, recipe.preference)
    return Batch(at("tokens"), at("targets"), at("rows"), at("segments"), pairs)


@cache
def read(name: str, folder: Path | None = None) -> Vectors:
    """The vectors of a case from its file. Raises CheckpointError for a file that is damaged."""
    folder = folder or golden_folder()
    entry = json.loads((folder / "cases.json").read_text(encoding="utf-8"))[name]
    recipe, file = read_recipe(entry["recipe"]), TensorFile(folder / entry["file"])
    weights, arrays = _under(file, "weights."), _under(file, "batch.")
    runs = "losses" in file
    steps = len(file["losses"]) if runs else 0
    updates = tuple(_batch(arrays, recipe, step) for step in range(steps))
    batch = updates[0] if runs else _batch(arrays, recipe, None)
    A, B, T = batch.tokens.shape
    packed = batch.segments is not None
    spec = loads(entry["mal"])
    case = Case(name, spec, lambda _: weights, A, B, T, packed, recipe=recipe, fixed=batch)
    run = None
    if runs:
        moments = (_under(file, "exp_avg."), _under(file, "exp_avg_sq."))
        state = TrainState(_under(file, "after."), *moments, steps)
        run = Trajectory(file["losses"], file["norms"], state)
    return Vectors(
        case,
        None if runs else file["logits"],
        0.0 if runs else float(file["loss"][0]),
        _under(file, "gradient."),
        run,
        updates,
        file["rates"] if runs else np.empty(0),
    )


def stored_cases() -> tuple[Case, ...]:
    """Every case, with weights and tokens from the files."""
    return tuple(read(case.name).case for case in (*vector_cases(), *run_cases()))


def sums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of the folder but SHA256SUMS itself."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "SHA256SUMS")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def written_sums(folder: Path) -> dict[str, str]:
    """What SHA256SUMS says, in the words of sha256sum."""
    lines = (folder / "SHA256SUMS").read_text(encoding="ascii").splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def golden_hash() -> str:
    """SHA-256 of SHA256SUMS, which names the whole folder in a certificate."""
    return hashlib.sha256((golden_folder() / "SHA256SUMS").read_bytes()).hexdigest()
