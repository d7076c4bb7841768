"""A run worked out from a size and a number of tokens, as a YAML file that `--config` reads.

The rules and their sources are in scaling_rules; each line of the file names the one it follows.
"""

import dataclasses
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hermes.errors import HermesError
from hermes.formatting import format_count, format_with_unit
from hermes.model_info.run_plan import TrainingPlan, format_hours
from hermes.model_info.scaling_rules import (
    BASE,
    Shape,
    choose_batch_tokens,
    choose_learning_rate,
    choose_warmup_steps,
    count_budget,
)
from hermes.model_info.training_memory import Placement, find_largest_batch
from hermes.numerics.params import count_parameters
from hermes.recipe import OptimizerRecipe, Recipe
from hermes.spec import ModelSpec

__all__ = ["Request", "SuggestedRun", "fit_run", "render_run"]

# Of a device's memory what a plan leaves: what an allocator holds in gaps, evaluations, and on
# machines of one memory the system.
USABLE = 0.75
DECAY_RATIO = 0.2
PLAIN = re.compile(r"[\w/.~][\w/.+~-]*", re.ASCII)  # what YAML needs no quotes for
# The optimizers whose steps have the size of AdamW's, so that its learning rates suit them.
OPTIMIZERS = ("adamw", "muon", "normuon")
SOURCES = """\
# Chinchilla: Hoffmann et al. 2022, arXiv:2203.15556. DeepSeek LLM: Bi et al. 2024,
# arXiv:2401.02954. GQA: Ainslie et al. 2023, arXiv:2305.13245. MobileLLM: Liu et al. 2024,
# arXiv:2402.14905. SwiGLU: Shazeer 2020, arXiv:2002.05202. nanochat: scripts/base_train.py,
# --aspect-ratio. Cool-down: Haegele et al. 2024, arXiv:2405.18392. Muon: Liu et al. 2025,
# arXiv:2502.16982. The sections and what each rule is for: hermes/model_info/scaling_rules.py\
"""


@dataclass(frozen=True)
class Request:
    """What a run is worked out for.

    model: a bundled model or file whose architecture it has; else shape is given. tokens: of the
    run, None for those of Chinchilla. available: bytes of a process. command: what was asked.
    """

    spec: ModelSpec
    model: str
    shape: Shape | None
    tokens: int
    are_tokens_chosen: bool
    seq_len: int
    optimizer: str
    placement: Placement
    available: int
    device: str
    command: Sequence[str]


@dataclass(frozen=True, repr=False)
class SuggestedRun:
    """A run of one size on one device.

    placement: what computes it, and whether it is sharded or recomputes. plan: its memory and time.
    budget: FLOPs, as the rules count them. text: the YAML file, which its repr shows.
    """

    spec: ModelSpec
    recipe: Recipe
    placement: Placement
    plan: TrainingPlan
    budget: float
    text: str

    def __repr__(self) -> str:
        return self.text


def fit_run(request: Request) -> tuple[Recipe, Placement, float]:
    """Work out the recipe, how it is computed, and its budget in FLOPs. Raises HermesError.

    The batch of an optimizer step is the rule's, as a power of two for each process. It is split
    into the largest micro-batches that fit; where not one sequence does, activations are
    recomputed, and then the model is sharded. So many processes that a sequence for each is more
    than twice the batch are refused.
    """
    budget = count_budget(request.spec, request.seq_len, request.tokens)
    tokens = choose_batch_tokens(budget)
    sequences = tokens / request.seq_len / request.placement.processes
    if sequences < 0.5 and request.placement.processes > 1:
        processes = request.placement.processes
        most, many = max(1, int(2 * sequences * processes)), format_count(processes, "processes")
        raise HermesError(
            f"a step of {tokens:,.0f} tokens, the rule's for this run, is less than half "
            f"a sequence of {request.seq_len:,} tokens for each of "
            f"{many}; choose at most --num-processes {most}"
        )
    per_process = 1 << max(0, round(sequences).bit_length() - 1)
    if sequences > 1.5 * per_process:  # the nearer power of two
        per_process *= 2
    samples = per_process * request.placement.processes
    steps = max(1, round(request.tokens / (samples * request.seq_len)))
    recipe = Recipe(
        lr=choose_learning_rate(budget),
        grad_accum=2,  # accumulated gradients take memory, if there are any
        max_steps=steps,
        seq_len=request.seq_len,
        schedule="wsd",
        decay_ratio=DECAY_RATIO,
        decay_shape="1-sqrt",
        min_lr_ratio=0.0,
        warmup_steps=choose_warmup_steps(steps),
        optimizer=OptimizerRecipe(name=request.optimizer),
    )
    placement, micro = _fit_micro_batch(request, recipe, per_process)
    accumulated = per_process // micro
    return dataclasses.replace(recipe, batch_size=micro, grad_accum=accumulated), placement, budget


def _fit_micro_batch(request: Request, recipe: Recipe, most: int) -> tuple[Placement, int]:
    """How the run is computed, and its largest micro-batch that is a power of two."""
    free = int(USABLE * request.available)
    plain = request.placement
    choices = [plain, dataclasses.replace(plain, grad_checkpoint=True)]
    if plain.processes > 1 and plain.backend == "torch":
        choices += [dataclasses.replace(one, shard="full") for one in (plain, choices[1])]
    for placement in choices:
        fitting = find_largest_batch(request.spec, recipe, placement, free)
        if fitting:
            return placement, min(most, 1 << (fitting.bit_length() - 1))
    parameters, has = count_parameters(request.spec), format_with_unit(free, "B")
    raise HermesError(
        f"{parameters:,} parameters with sequences of {request.seq_len:,} tokens do not fit into "
        f"{has}, {USABLE:.0%} of what {request.device} has, with any micro-batch; choose a larger "
        "--device, a smaller model, a shorter --seq-len, or more processes with --num-processes, "
        "among which torch shards it"
    )


def render_run(
    request: Request, recipe: Recipe, placement: Placement, plan: TrainingPlan, budget: float
) -> str:
    """Render the YAML file, each line with the rule it follows."""
    step = f"{plan.tokens_per_step:,} tokens a step"
    is_one = plan.tokens_per_step == recipe.seq_len and choose_batch_tokens(budget) < recipe.seq_len
    step += ", one sequence, more than" if is_one else ","
    rate = "0.3118 C^-0.1250 (DeepSeek LLM)"
    if recipe.optimizer.name != "adamw":
        rate += ", of AdamW, as its steps (Muon)"
    rows: list[tuple[str, object, str]] = [
        ("seq_len", recipe.seq_len, ""),
        ("batch_size", recipe.batch_size, f"a power of two that fits into {USABLE:.0%} of memory"),
        ("grad_accum", recipe.grad_accum, f"{step} 0.2920 C^0.3271 (DeepSeek LLM)"),
        ("max_steps", recipe.max_steps, _describe_tokens(request, plan)),
        ("optimizer", recipe.optimizer.name, ""),
        ("lr", recipe.lr, rate),
        ("weight_decay", recipe.optimizer.weight_decay, "DeepSeek LLM"),
        ("grad_clip", recipe.grad_clip, "DeepSeek LLM"),
        ("warmup_steps", recipe.warmup_steps, "2,000 (DeepSeek LLM), at most 2 % of the run"),
        ("schedule", recipe.schedule, ""),
        ("decay_ratio", recipe.decay_ratio, "cool-down"),
        ("decay_shape", recipe.decay_shape, "cool-down"),
        ("min_lr_ratio", 0, "cool-down"),
        ("precision", placement.precision, ""),
    ]
    if placement.grad_checkpoint:
        rows.append(("grad_checkpoint", True, "without it not one sequence fits"))
    if placement.processes > 1:
        kind = "num_gpus" if placement.device == "cuda" else "num_processes"
        rows.append((kind, placement.processes, ""))
    if placement.shard:
        rows.append(("shard", placement.shard, "a whole copy in each process does not fit"))
    if request.device == "cpu":
        rows.append(("device", "cpu", ""))
    lines = [*_render_heading(request, plan, budget), *_render_model(request)]
    lines += (_render_line(*row) for row in rows)
    return "\n".join(lines) + "\n"


def _render_heading(request: Request, plan: TrainingPlan, budget: float) -> Iterator[str]:
    yield f"# {shlex.join(request.command)}"
    yield "# Train with: hermes train --config FILE --data TEXT --tokenizer FILE --output DIR"
    yield "#"
    yield f"# {plan.parameters:,} parameters on {plan.backend}; C = {budget:.2e} FLOPs"
    total, available = (format_with_unit(n, "B") for n in (plan.memory.total, request.available))
    yield f"# memory of a process: {total} of {available} at its peak, in the {plan.memory.moment}"
    if plan.hours is not None:
        yield f"# time: {format_hours(plan.hours)} at {plan.speed_from}"
    yield "#"
    yield SOURCES


def _render_model(request: Request) -> Iterator[str]:
    if request.shape is None:
        yield _render_line("model", request.model, "")
        return
    rules: Mapping[str, str] = {
        "hidden_size": "near 64 for each layer (nanochat)",
        "block.attention.num_kv_heads": "GQA",
        "block.ffn.hidden_dim": "8/3 of the width (SwiGLU)",
        "embeddings.tie_weights": "below a billion (MobileLLM)",
    }
    yield _render_line("model", BASE, "whose sizes these replace")
    yield "set:"
    for key, value in request.shape.list_edits().items():
        yield _render_line(f"  model.{key}", int(value) if value.isdecimal() else value,
                           rules.get(key, ""))  # fmt: skip
    yield _render_line("vocab_size", request.shape.vocab_size, "of --train-tokenizer")


def _describe_tokens(request: Request, plan: TrainingPlan) -> str:
    tokens = f"{plan.tokens:,} tokens"
    if not request.are_tokens_chosen:
        return tokens
    return f"{tokens}, 20 for each parameter (Chinchilla)"


def _render_line(key: str, value: object, comment: str) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, str) and not PLAIN.fullmatch(value):
        text = json.dumps(value)  # as YAML quotes a path with a colon or a blank, too
    text = text.lower() if isinstance(value, bool) else text
    line = f"{key}: {text}"
    return f"{line:<36} # {comment}" if comment else line
