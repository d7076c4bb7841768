"""The cases that golden vectors are made of, and reading the vectors back."""

import hashlib
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from hermes.checkpoint import TensorFile
from hermes.interface import Batch, PreferencePairs, TrainState
from hermes.mal import dumps, loads
from hermes.recipe import Lora, LossScaling, OptimizerRecipe, Preference, Recipe
from hermes.spec import (
    Alibi,
    AttentionSpec,
    BlockSpec,
    EmbeddingsSpec,
    FfnSpec,
    LayerNorm,
    Learned,
    Llama3Scaling,
    LongRopeScaling,
    ModelSpec,
    OutputSpec,
    QkNorm,
    RMSNorm,
    Rope,
    YarnScaling,
)
from hermes.storage.plain_json import load_json
from hermes_conformance.cases.case import RECIPE, Case
from hermes_conformance.cases.weights import draw_hot
from hermes_conformance.golden.hashes import find_golden_folder
from hermes_conformance.oracle.trajectory import Trajectory

RUN = replace(RECIPE, schedule="cosine", warmup_steps=3, lr=1e-2, grad_clip=0.5, min_lr_ratio=0.05)
RUN_STEPS = 30


def _make_spec(
    attention: AttentionSpec,
    ffn: FfnSpec,
    layers: int = 2,
    embeddings: EmbeddingsSpec | None = None,
    output: OutputSpec | None = None,
    **block: Any,
) -> ModelSpec:
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


def _make_sublayers_spec() -> ModelSpec:
    """A layer of attention alone, and one of a clamped swiglu alone."""
    whole = _make_spec(
        AttentionSpec(2, 1), FfnSpec(12, limit=0.7, alpha=1.702), norm=LayerNorm(weight=False)
    )
    (block,) = whole.blocks
    return replace(whole, blocks=(replace(block, ffn=None), replace(block, attention=None)))


@cache
def make_vector_cases() -> tuple[Case, ...]:
    """A case for each family of architectures, one with dropout, and one of preferences."""
    tied = EmbeddingsSpec(tie_weights=True)
    llama = _make_spec(AttentionSpec(4, 2), FfnSpec(12))
    specs = {
        "llama": llama,
        "llama3": _make_spec(
            AttentionSpec(2, 1, position_encoding=Rope(scaling=Llama3Scaling(8.0, 1.0, 4.0, 16))),
            FfnSpec(12),
        ),
        "yarn": _make_spec(
            AttentionSpec(2, 2, position_encoding=Rope(scaling=YarnScaling(4.0, 16))), FfnSpec(12)
        ),
        "qwen": _make_spec(
            AttentionSpec(2, 1, bias="qkv", qk_norm="head"), FfnSpec(12), embeddings=tied
        ),
        "olmo": _make_spec(AttentionSpec(2, qk_norm="flat"), FfnSpec(12), norm_position="output"),
        "gemma": _make_spec(
            AttentionSpec(2, 1, softcap=5.0, scale=0.4, window_size=4),
            FfnSpec(12, "geglu"),
            embeddings=replace(tied, scale=8**0.5),
            output=OutputSpec(softcap=4.0),
            norm=RMSNorm(1e-6, unit_offset=True),
            norm_position="sandwich",
        ),
        "gpt2": _make_spec(
            AttentionSpec(2, bias="all", position_encoding=Learned()),
            FfnSpec(12, "gelu_tanh", bias=True),
            embeddings=tied,
            norm=LayerNorm(),
        ),
        "bloom": _make_spec(
            AttentionSpec(3, head_dim=4, position_encoding=Alibi()),
            FfnSpec(12, "gelu"),
            norm=LayerNorm(bias=False),
            parallel=True,
            output=OutputSpec(bias=True),
        ),
        "first": _make_spec(
            AttentionSpec(2, causal=False, position_encoding=Learned()),
            FfnSpec(12, "relu2"),
            norm_position="post",
        ),
        "longrope": _make_spec(
            AttentionSpec(
                2,
                1,
                bias="o",
                clip_qkv=0.9,
                position_encoding=Rope(scaling=LongRopeScaling((1.0, 1.5), (2.0, 5.0), 4)),
            ),
            FfnSpec(12),
        ),
        "stablelm": _make_spec(
            AttentionSpec(2, 2, qk_norm=QkNorm("each_head", "layernorm"), v_head_dim=3),
            FfnSpec(12),
            norm=LayerNorm(),
        ),
        "hunyuan": _make_spec(AttentionSpec(2, 1, qk_norm=QkNorm(after_rope=True)), FfnSpec(12)),
        "nemotron": _make_spec(
            AttentionSpec(2, qk_norm=QkNorm(norm="layernorm", bias=True)),
            FfnSpec(12, "relu2"),
            norm=LayerNorm(unit_offset=True),
        ),
        "falcon": _make_spec(
            AttentionSpec(2, head_dim=4, bias="all", position_encoding=Alibi(scale=0.5)),
            FfnSpec(12, "gelu", bias=True),
            norm=LayerNorm(),
        ),
        "sinks": _make_spec(
            AttentionSpec(
                2,
                1,
                bias="all",
                window_size=4,
                position_encoding=Rope(100.0, YarnScaling(4.0, 64, 4.0, 1.0, truncate=False)),
                sinks=True,
                output_gate=True,
            ),
            FfnSpec(12),
        ),
        "granite": _make_spec(
            AttentionSpec(2, 1),
            FfnSpec(12),
            embeddings=replace(tied, scale=3.0),
            output=OutputSpec(softcap=4.0, scale=0.3),
            residual_scale=0.22,
        ),
        "phi": _make_spec(
            AttentionSpec(2, bias="all", position_encoding=Rope(rotary_dim=2)),
            FfnSpec(12, "gelu_tanh", bias=True),
            embeddings=EmbeddingsSpec(norm=LayerNorm(1e-3)),
            output=OutputSpec(bias=True, norm=RMSNorm(weight=False)),
            norm=LayerNorm(),
            parallel=True,
            shared_norm=True,
        ),
        "sublayers": _make_sublayers_spec(),
        "dropout": _make_spec(
            AttentionSpec(2, dropout=0.2),
            FfnSpec(12, dropout=0.3),
            dropout=0.1,
            embeddings=EmbeddingsSpec(dropout=0.15),
        ),
    }
    plain = [
        Case(f"golden.{name}/hot", spec, draw_hot, T=8, packed=name in ("llama3", "gpt2", "sinks"))
        for name, spec in specs.items()
    ]
    pairs = replace(RECIPE, objective="preference", preference=Preference(beta=0.5))
    return (*plain, Case("golden.preference/hot", llama, draw_hot, B=4, T=8, recipe=pairs))


@cache
def make_run_cases() -> tuple[Case, ...]:
    """Models small enough for the oracle to train: one layer, about 150 weights."""
    gpt2 = _make_spec(
        AttentionSpec(2, bias="all", position_encoding=Learned(), dropout=0.2),
        FfnSpec(6, "gelu", bias=True),
        1,
        EmbeddingsSpec(tie_weights=True),
        OutputSpec(bias=True),
        norm=LayerNorm(),
    )
    llama = _make_spec(AttentionSpec(2, 1), FfnSpec(6, dropout=0.1), 1)
    cases = []
    for name, spec in (("gpt2", gpt2), ("llama", llama)):
        small = replace(spec, vocab_size=7, max_seq_len=8, hidden_size=4)
        cases.append(Case(f"run.{name}/hot", small, draw_hot, T=6, recipe=RUN))
    return tuple(cases)


@dataclass(frozen=True)
class GoldenVectors:
    """A case as its file holds it, with the oracle's logits, loss and gradient.

    Where the file is of a training run: its batches, learning rates and trajectory instead.
    """

    case: Case
    logits: np.ndarray | None
    loss: float
    gradient: dict[str, np.ndarray]
    run: Trajectory | None
    batches: tuple[Batch, ...]
    rates: np.ndarray


def get_file_name(case: Case) -> str:
    """`llama.safetensors` of `golden.llama/hot`, `run-llama.safetensors` of `run.llama/hot`."""
    return case.name.removesuffix("/hot").removeprefix("golden.").replace(".", "-") + ".safetensors"


def describe_case(case: Case) -> dict[str, object]:
    """The case's entry in cases.json."""
    return {
        "file": get_file_name(case),
        "mal": dumps(case.spec),
        "recipe": asdict(case.recipe),
        "dropout": list(case.dropout) if case.dropout else None,
    }


def read_recipe(value: dict[str, Any]) -> Recipe:
    """The recipe of an entry of cases.json."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
    fields["optimizer"] = OptimizerRecipe(**value["optimizer"])
    fields["preference"] = Preference(**value["preference"])
    fields["loss_scaling"] = LossScaling(**value["loss_scaling"])
    fields["lora"] = None if value["lora"] is None else Lora(**value["lora"])
    return Recipe(**fields)


def _select_tensors(file: TensorFile, prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): file[name] for name in file if name.startswith(prefix)}


def _make_batch(arrays: dict[str, np.ndarray], recipe: Recipe, step: int | None) -> Batch:
    """The batch of a step, counted from 0, of a run; step None: the batch of the whole file."""
    parts = arrays if step is None else {name: value[step] for name, value in arrays.items()}
    reference = parts.get("reference")
    pairs = None if reference is None else PreferencePairs(reference, recipe.preference)
    return Batch(parts["tokens"], parts["targets"], parts["rows"], parts.get("segments"), pairs)


@cache
def read_vectors(name: str, folder: Path | None = None) -> GoldenVectors:
    """The vectors of a case from its file. Raises CheckpointError for a damaged file."""
    folder = folder or find_golden_folder()
    entry = load_json((folder / "cases.json").read_text(encoding="utf-8"))[name]
    recipe, file = read_recipe(entry["recipe"]), TensorFile(folder / entry["file"])
    weights, arrays = _select_tensors(file, "weights."), _select_tensors(file, "batch.")
    is_run = "losses" in file
    steps = len(file["losses"]) if is_run else 0
    batches = tuple(_make_batch(arrays, recipe, step) for step in range(steps))
    batch = batches[0] if is_run else _make_batch(arrays, recipe, None)
    A, B, T = batch.tokens.shape
    packed = batch.segments is not None
    spec = loads(entry["mal"])
    case = Case(name, spec, lambda _: weights, A, B, T, packed, recipe=recipe, fixed_batch=batch)
    run = None
    if is_run:
        moments = (_select_tensors(file, "exp_avg."), _select_tensors(file, "exp_avg_sq."))
        state = TrainState(_select_tensors(file, "after."), *moments, steps)
        run = Trajectory(file["losses"], file["norms"], state)
    return GoldenVectors(
        case,
        None if is_run else file["logits"],
        0.0 if is_run else float(file["loss"][0]),
        _select_tensors(file, "gradient."),
        run,
        batches,
        file["rates"] if is_run else np.empty(0),
    )


def read_stored_cases() -> tuple[Case, ...]:
    """All cases, with weights and tokens from their files."""
    return tuple(read_vectors(case.name).case for case in (*make_vector_cases(), *make_run_cases()))


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of the folder except SHA256SUMS."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "SHA256SUMS")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def read_hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file according to SHA256SUMS, which has the format of sha256sum."""
    lines = (folder / "SHA256SUMS").read_text(encoding="ascii").splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def hash_golden_folder() -> str:
    """SHA-256 of SHA256SUMS, by which a certificate identifies the whole folder."""
    return hashlib.sha256((find_golden_folder() / "SHA256SUMS").read_bytes()).hexdigest()
