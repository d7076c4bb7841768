"""A run before it begins: memory at its peak, largest micro-batch, hours, energy and price."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from hermes.formatting import format_columns, format_count, format_with_unit
from hermes.model_info.cost import compute_cost, count_flops, find_cache_type
from hermes.model_info.hardware import UTILIZATION
from hermes.model_info.training_memory import (
    MemoryPlan,
    Placement,
    count_unfused_layers,
    find_largest_batch,
    plan_memory,
)
from hermes.numerics.lora import list_adapter_tensors, list_trainable
from hermes.numerics.params import list_parameters
from hermes.recipe import Recipe
from hermes.spec import ModelSpec

__all__ = ["Speed", "TrainingPlan", "format_hours", "format_plan", "plan_run"]


@dataclass(frozen=True)
class Speed:
    """How fast a run is taken to be.

    tokens_per_second: given, of all processes; 0 where it is predicted from flops, those per second
    of one device at its peak. origin: in words, where either is from.
    """

    tokens_per_second: float = 0.0
    flops: float = 0.0
    origin: str = ""


@dataclass(frozen=True, repr=False)
class TrainingPlan:
    """What a run needs; None for what is not known.

    memory: of one process at its peak. unfused_layers: how many layers' attention keeps a tensor of
    every query and key. available: bytes for one process. largest_batch: sequences of a micro-batch
    that fit there, 0 where not even one does. batch_size, tokens_per_step: of the largest step,
    where they grow. kv_cache: bytes of one sequence of max_seq_len when decoding. speed_from: where
    tokens_per_second is from. energy: kWh of all devices.
    """

    model: str
    parameters: int
    trained: int
    backend: str
    device: str
    precision: str
    processes: int
    batch_size: int
    grad_accum: int
    seq_len: int
    memory: MemoryPlan
    unfused_layers: int
    available: int | None
    largest_batch: int | None
    kv_cache: int
    tokens_per_step: int
    flops_per_token: int
    steps: int | None
    tokens: int | None
    tokens_per_second: float | None
    speed_from: str
    hours: float | None
    energy: float | None
    price: float | None

    @property
    def fits(self) -> bool | None:
        """Whether the peak fits into what is available; None where that is not known."""
        return None if self.available is None else self.memory.total <= self.available

    def to_dict(self) -> dict[str, Any]:
        """As plain data: what `hermes plan --json` prints."""
        memory = dataclasses.asdict(self.memory) | {"total": self.memory.total}
        return dataclasses.asdict(self) | {"memory": memory, "fits": self.fits}

    def __repr__(self) -> str:
        return "\n".join(format_plan(self))


def plan_run(
    spec: ModelSpec,
    recipe: Recipe,
    placement: Placement,
    *,
    available: int | None = None,
    length: tuple[int, int] | None = None,
    speed: Speed = Speed(),
    price_per_hour: float = 0.0,
    watts: float = 0.0,
) -> TrainingPlan:
    """Plan a run, by its largest batch where the batch grows. Raises HermesError.

    length: steps and tokens of the whole run, None where they are not known. watts: of one device.
    """
    recipe = recipe.use_largest_batch()
    sequence = dataclasses.replace(spec, max_seq_len=recipe.seq_len)
    table = dict(list_parameters(spec))
    parameters = sum(tensor.size for tensor in table.values())
    table |= list_adapter_tensors(spec, recipe.lora) if recipe.lora else {}
    per_token = count_flops(sequence, training=True)
    per_step = recipe.batch_size * recipe.grad_accum * placement.processes * recipe.sample_tokens
    steps, total = length or (None, None)
    rate: float | None = speed.tokens_per_second or None
    if rate is None and speed.flops:
        rate = UTILIZATION * speed.flops * placement.processes / per_token
    hours = None if total is None or rate is None else total / rate / 3600
    memory = plan_memory(spec, recipe, placement)
    cache_type = find_cache_type(placement.backend, placement.device, placement.precision)
    return TrainingPlan(
        model=spec.name,
        parameters=parameters,
        trained=sum(table[name].size for name in list_trainable(spec, recipe)),
        backend=placement.backend,
        device=placement.device,
        precision=placement.precision,
        processes=placement.processes,
        batch_size=recipe.batch_size,
        grad_accum=recipe.grad_accum,
        seq_len=recipe.seq_len,
        memory=memory,
        unfused_layers=count_unfused_layers(spec, recipe, placement),
        available=available,
        largest_batch=None
        if available is None
        else find_largest_batch(spec, recipe, placement, available),
        kv_cache=compute_cost(spec).memory[cache_type]["kv_cache"],
        tokens_per_step=per_step,
        flops_per_token=per_token,
        steps=steps,
        tokens=total,
        tokens_per_second=rate,
        speed_from=speed.origin if rate is not None else "",
        hours=hours,
        energy=hours * watts * placement.processes / 1000 if hours and watts else None,
        price=hours * price_per_hour if hours and price_per_hour else None,
    )


def _format_digits(number: float) -> str:
    """Format it with two decimals, or with as many as show something of a small one."""
    return f"{number:,.2f}" if number >= 0.1 else f"{number:.2g}"


def format_hours(hours: float) -> str:
    """Format hours in a unit that leaves them some digits."""
    if hours >= 1:
        return f"{hours:,.{1 if hours >= 10 else 2}f} hours"
    return f"{hours * 60:.1f} minutes" if hours >= 1 / 30 else f"{hours * 3600:.2g} seconds"


def _describe_attention(plan: TrainingPlan) -> str:
    if not plan.unfused_layers:
        return ""
    layers = format_count(plan.unfused_layers, "layers")
    return f", with a tensor of every query and key in {layers}"


def format_plan(plan: TrainingPlan) -> list[str]:
    """A plan as lines for people."""
    memory = plan.memory
    where = f"{plan.backend} on {plan.device}, {plan.precision}"
    rows = [
        ("parameters", f"{plan.parameters:,}"),
        *([("  trained", f"{plan.trained:,}")] if plan.trained != plan.parameters else []),
        ("computed by", where + (f", {plan.processes} processes" * (plan.processes > 1))),
        ("micro-batch", f"{plan.batch_size} x {plan.seq_len:,} tokens"),
        ("", ""),
        ("memory of a process", f"{format_with_unit(memory.total, 'B')} at its peak, in the "
         f"{memory.moment}"),
        ("  weights", format_with_unit(memory.weights, "B")),
        ("  optimizer state", format_with_unit(memory.optimizer, "B")),
        ("  gradients", format_with_unit(memory.gradients, "B")),
        ("  activations", format_with_unit(memory.activations, "B") + _describe_attention(plan)),
        ("  logits", format_with_unit(memory.logits, "B")),
        ("  update", format_with_unit(memory.update, "B")),
    ]  # fmt: skip
    if plan.available is not None:
        verdict = "fits" if plan.fits else "does not fit"
        rows.append(("  available", f"{format_with_unit(plan.available, 'B')}: {verdict}"))
        rows.append(("  largest micro-batch", f"{plan.largest_batch:,}"))
    rows.append(("KV cache of a text", format_with_unit(plan.kv_cache, "B")))
    rows.append(("", ""))
    rows.append(("tokens per step", f"{plan.tokens_per_step:,}"))
    rows.append(("FLOPs per token", format_with_unit(plan.flops_per_token, "FLOP")))
    if plan.steps is not None:
        rows.append(("steps", f"{plan.steps:,}"))
        rows.append(("tokens", f"{plan.tokens:,}"))
    if plan.tokens_per_second is not None:
        speed = plan.tokens_per_second
        digits = f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"
        rows.append(("speed", f"{digits} tokens/s, {plan.speed_from}"))
    if plan.hours is not None:
        rows.append(("time", format_hours(plan.hours)))
    if plan.energy is not None:
        rows.append(("energy", f"{_format_digits(plan.energy)} kWh"))
    if plan.price is not None:
        rows.append(("price", _format_digits(plan.price)))
    return [plan.model, *(line for line in format_columns(rows))]
