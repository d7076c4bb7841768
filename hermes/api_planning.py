"""The public functions that work out a run and plan it before it begins."""

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hermes.arguments import convert_arguments, name_own_arguments
from hermes.errors import HermesError
from hermes.interface import SHORT_NAMES, detect_default_backend, find_backend
from hermes.interop.architecture import read_architecture
from hermes.model_info.activations import BYTES_OF
from hermes.model_info.datasheets import Datasheet
from hermes.model_info.hardware import UTILIZATION, find_hardware, measure_flops
from hermes.model_info.memory import read_host_memory
from hermes.model_info.run_plan import Speed, TrainingPlan, plan_run
from hermes.model_info.run_recipe import OPTIMIZERS, Request, SuggestedRun, fit_run, render_run
from hermes.model_info.scaling_rules import choose_tokens, make_shape, make_spec, read_count
from hermes.model_info.training_memory import Placement
from hermes.recipe import LORA_TARGETS, Lora, OptimizerRecipe, Recipe
from hermes.spec import ModelSpec
from hermes.storage.durable import write_atomically
from hermes.training.schedule import count_samples_before, find_step

__all__ = ["make_recipe", "plan"]

LONGEST_DEFAULT = 256
CPU_LENGTH, DEVICE_LENGTH = 512, 2048


@name_own_arguments
def plan(
    model: ModelSpec | str | Path = "tiny",
    *,
    batch_size: int = 32,
    grad_accum: int = 1,
    max_steps: int = 0,
    batch_size_schedule: str = "",
    seq_len: int | None = None,
    max_len: int | None = None,
    tokens: str | float | None = None,
    document_mask: bool = False,
    freeze_layers: int = 0,
    freeze: Sequence[str] = (),
    lora_rank: int = 0,
    lora_targets: str = "all",
    dora: bool = False,
    optimizer: str | None = None,
    moments: str = "float32",
    group: Sequence[Sequence[str]] = (),
    ema: float = 0.0,
    num_processes: int = 1,
    shard: str | None = None,
    shard_group: int | None = None,
    backend: str = "auto",
    precision: str = "auto",
    grad_checkpoint: bool = False,
    selective_checkpoint: bool = False,
    compile: bool | None = None,
    hardware: str | None = None,
    memory: float = 0.0,
    tokens_per_second: float = 0.0,
    price_per_hour: float = 0.0,
    watts: float = 0.0,
) -> TrainingPlan:
    """Plan a run: memory of a process at its peak, largest micro-batch, hours, energy and price.

    model to compile: as in `train` and `finetune`; of batches that grow the largest is planned.
    max_len: as in `dpo`, whose batch_size pairs are planned then. tokens: of the whole run, as
    2_000_000_000 or "2B", instead of max_steps. num_processes: of the whole run. hardware: a device
    of `hermes.model_info.datasheets`, None for the processors of this machine, whose speed is
    measured. memory: GB for one process instead of the hardware's. tokens_per_second: of all
    processes, instead of a speed that is predicted. price_per_hour: of all of them. watts: of one
    device. Raises HermesError.
    """
    a = convert_arguments(plan, locals())
    spec = model if isinstance(model, ModelSpec) else read_architecture(model)
    device = None if hardware is None else find_hardware(hardware)
    if precision == "auto":  # as a run on that device chooses it
        precision = "float32" if device is None or device.device == "cpu" else "bfloat16"
    precision = SHORT_NAMES.get(precision, precision)
    if precision not in BYTES_OF:
        known = ", ".join(("auto", *BYTES_OF))
        raise HermesError(f"precision must be one of {known}, got {precision!r}")
    if seq_len is not None and max_len is not None:
        raise HermesError("--seq-len and --max-len, which is of pairs, are both given; keep one")
    given = "seq_len" if max_len is None else "max_len"
    length = min(LONGEST_DEFAULT, spec.max_seq_len) if a[given] is None else a[given]
    _require_length(given, length, spec)
    for name in ("num_processes", "batch_size", "grad_accum"):
        if a[name] < 1:
            raise HermesError(f"{name} must be at least 1, got {a[name]}")
    for name in ("memory", "tokens_per_second", "price_per_hour", "watts"):
        if a[name] < 0:
            raise HermesError(f"{name} must be at least 0, got {a[name]:g}")
    wanted = read_count("tokens", tokens) if tokens else 0
    if wanted and max_steps:
        raise HermesError("--tokens and --max-steps are both given; keep one")
    recipe = Recipe(
        batch_size=a["batch_size"],
        grad_accum=a["grad_accum"],
        max_steps=a["max_steps"],
        batch_size_schedule=batch_size_schedule,
        seq_len=length,
        objective="next-token" if max_len is None else "preference",
        document_mask=a["document_mask"],
        freeze_layers=a["freeze_layers"],
        freeze=tuple(freeze),
        lora=_make_lora(lora_rank, lora_targets, a["dora"]),
        optimizer=OptimizerRecipe(name=optimizer or "adamw", moments=moments),
        groups=tuple(tuple(one) for one in group),
        ema=a["ema"],
    )
    placement = Placement(
        _choose_backend(backend, device),
        "cpu" if device is None else device.device,
        precision,
        a["grad_checkpoint"],
        a["num_processes"],
        shard,
        shard_group,
        a["selective_checkpoint"],
        compile,
    )
    available = int(a["memory"] * 1e9) or _find_available(device, placement)
    return plan_run(
        spec,
        recipe,
        placement,
        available=available,
        length=_count_length(recipe, wanted, a["num_processes"]),
        speed=_find_speed(a["tokens_per_second"], device, hardware, precision),
        price_per_hour=a["price_per_hour"],
        watts=a["watts"] or (device.watts or 0.0 if device else 0.0),
    )


@name_own_arguments
def make_recipe(
    *,
    params: str | float | None = None,
    depth: int | None = None,
    model: ModelSpec | str | Path | None = None,
    tokens: str | float | None = None,
    device: str = "cpu",
    num_processes: int = 1,
    vocab_size: int = 32_000,
    seq_len: int | None = None,
    optimizer: str = "adamw",
    memory: float = 0.0,
    output: Path | None = None,
) -> SuggestedRun:
    """Work out a run from a size and a number of tokens, as a YAML file that --config reads.

    params: of the model, as 100_000_000 or "100M"; depth: its layers instead, from which all sizes
    follow; model: an architecture instead. tokens: of the run, None for 20 for each parameter.
    device: one of `hermes.model_info.datasheets`, or cpu, this machine. num_processes: of the whole
    run. vocab_size, seq_len: of a new architecture; seq_len None is 2048, and 512 on cpu. memory:
    GB for one process instead of the device's. output: a file to write. Raises HermesError.
    """
    a = convert_arguments(make_recipe, locals())
    given = [name for name in ("params", "depth", "model") if a[name] is not None]
    if len(given) != 1:
        found = " and ".join(f"--{name}" for name in given) or "none of them"
        raise HermesError(f"give one of --params, --depth and --model, got {found}")
    for name, least in (("num_processes", 1), ("vocab_size", 2), ("memory", 0)):
        if a[name] < least:
            raise HermesError(f"{name} must be at least {least}, got {a[name]:g}")
    if optimizer not in OPTIMIZERS:
        raise HermesError(
            f"no rule for the learning rate of {optimizer!r}; choose one of {', '.join(OPTIMIZERS)}"
        )
    sheet = None if device == "cpu" else find_hardware(device)
    length = CPU_LENGTH if sheet is None else DEVICE_LENGTH
    if seq_len is not None:
        length = a["seq_len"]
        _require_length("seq_len", length)
    shape = None
    if model is None:
        count = None if params is None else read_count("params", params)
        shape = make_shape(count, a["depth"], a["vocab_size"], length)
        spec = make_spec(shape)
    else:
        spec = model if isinstance(model, ModelSpec) else read_architecture(model)
        length = min(length, spec.max_seq_len) if seq_len is None else length
    _require_length("seq_len", length, spec)
    placement = Placement(
        (detect_default_backend() or "torch") if sheet is None else sheet.backend,
        "cpu" if sheet is None else sheet.device,
        "float32" if sheet is None else "bfloat16",
        processes=a["num_processes"],
    )
    available = int(a["memory"] * 1e9) or _find_available(sheet, placement)
    if available is None:
        raise HermesError("this system does not say how much memory it has; give memory in GB")
    request = Request(
        spec=spec,
        model=spec.name if isinstance(model, ModelSpec) else str(model),
        shape=shape,
        tokens=choose_tokens(spec) if tokens is None else read_count("tokens", tokens),
        are_tokens_chosen=tokens is None,
        seq_len=length,
        optimizer=optimizer,
        placement=placement,
        available=available,
        device=device,
        command=_spell_command(a),
    )
    recipe, placement, budget = fit_run(request)
    flops = 0.0 if sheet is None else sheet.rates.get(placement.precision, 0.0)
    origin = f"{UTILIZATION:.0%} of the {device}'s peak"
    planned = plan_run(
        spec,
        recipe,
        placement,
        available=available,
        length=_count_length(recipe, 0, placement.processes),
        speed=Speed(flops=flops, origin=origin),
    )
    text = render_run(request, recipe, placement, planned, budget)
    if output is not None:
        write_atomically(a["output"], text.encode("utf-8"))
    return SuggestedRun(spec, recipe, placement, planned, budget, text)


def _require_length(name: str, length: int, spec: ModelSpec | None = None) -> None:
    """Refuse sequences of no length, or that the model has no room for. Raises HermesError."""
    if length < 1:
        raise HermesError(f"{name} must be at least 1, got {length}")
    if spec is not None and length > spec.max_seq_len:
        raise HermesError(
            f"{name} is {length}, more than the model's max_seq_len {spec.max_seq_len}; choose a "
            f"shorter --{name.replace('_', '-')} or a longer model"
        )


def _make_lora(rank: int, targets: str, dora: bool) -> Lora | None:
    """The adapters that are planned; without a rank the rest says nothing. Raises HermesError."""
    if not rank:
        return None
    names = LORA_TARGETS if targets == "all" else tuple(map(str.strip, targets.split(",")))
    return Lora(rank, targets=names, dora=dora)


def _count_length(recipe: Recipe, tokens: int, processes: int) -> tuple[int, int] | None:
    """Steps and tokens of the whole run, by the recipe's steps or so many tokens; else None."""
    steps = recipe.max_steps
    if tokens:
        steps = find_step(recipe, math.ceil(tokens / recipe.sample_tokens), processes)
    if not steps:
        return None
    return steps, count_samples_before(recipe, steps, processes) * recipe.sample_tokens


def _spell_command(arguments: Mapping[str, Any]) -> list[str]:
    """The command line that makes the same file."""
    defaults = {n: p.default for n, p in inspect.signature(make_recipe).parameters.items()}
    command = ["hermes", "recipe"]
    for name, value in arguments.items():
        if name != "output" and (value != defaults[name] or name == "device"):
            shown = value.name if isinstance(value, ModelSpec) else value
            command += [f"--{name.replace('_', '-')}", str(shown)]
    return command


def _choose_backend(name: str, device: Datasheet | None) -> str:
    """The backend that computes; with hardware that is elsewhere, the one that it has."""
    if name == "auto":
        if device is not None:
            return device.backend
        name = detect_default_backend() or "torch"  # which need not be loaded for a plan
    if name not in ("torch", "mlx"):
        find_backend(name)
        raise HermesError(f"backend {name!r} does not train; a plan is for torch or mlx")
    if device is not None and name != device.backend:
        raise HermesError(
            f"that hardware is for backend {device.backend!r}, not {name!r}; leave --backend out"
        )
    return name


def _find_available(device: Datasheet | None, placement: Placement) -> int | None:
    """Bytes for one process: a device's, or its share of this machine's."""
    if device is not None:
        return device.memory
    found = read_host_memory()
    return None if found is None else found.available // placement.processes


def _find_speed(given: float, device: Datasheet | None, name: str | None, precision: str) -> Speed:
    if given:
        return Speed(given, origin="given")
    part = f"{UTILIZATION:.0%} of "
    if device is None:
        if precision not in ("float32", "tf32"):
            return Speed()
        origin = f"predicted: {part}the rate of this machine's matrix products"
        return Speed(flops=measure_flops(), origin=origin)
    return Speed(
        flops=device.rates.get(precision, 0.0), origin=f"predicted: {part}the {name}'s peak"
    )
