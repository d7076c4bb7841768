"""Faults of the core library: MAL, tokens, data order, schedule, initial weights, files."""

from dataclasses import replace

import numpy as np

from hermes.checkpoint import reader, weights
from hermes.data import order, text_dataset
from hermes.mal import writer
from hermes.numerics import randomness
from hermes.storage import safetensors
from hermes.tokenizer import Tokenizer
from hermes.training import schedule
from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import Patcher
from hermes_conformance.golden import hashes
from hermes_conformance.laws import core_library

ONCE = "default/fresh"


def _change_function(module, name, change, *holders):
    """Replace module.name by change(original, ...) in hermes, the backend and `holders`."""

    def plant(patcher: Patcher) -> None:
        original = getattr(module, name)

        def faulty(*args, **kwargs):
            return change(original, *args, **kwargs)

        patcher.wrap_function(original, lambda _: faulty)
        for holder in holders:
            for attribute, value in list(vars(holder).items()):
                if value is original:
                    patcher.replace(holder, attribute, faulty)

    return plant


def _change_method(cls, name, change):
    def plant(patcher: Patcher) -> None:
        patcher.wrap(
            cls,
            name,
            lambda original: lambda self, *args, **kwargs: change(original, self, *args, **kwargs),
        )

    return plant


def _repeat_epoch(original, seed, cursor, count, size):
    epoch = original(seed, order.Cursor(), size, size)
    return epoch[(cursor.sample + np.arange(count)) % size]


def _repeat_sample(original, seed, cursor, count, size):
    result = original(seed, cursor, count, size)
    return np.where(result == size - 1, 0, result)


def _restart_epoch(original, seed, cursor, count, size):
    """Each part of an order begins with the order's first sample."""
    return original(seed, replace(cursor, sample=0), count, size)


def _order_by_rank(original, self, stream, samples, micro_batch, accum, rank, world):
    right = original(self, stream, samples, micro_batch, accum, rank, world)
    first = rank * micro_batch * accum
    rolled = np.roll(samples, -first)
    return replace(original(self, stream, rolled, micro_batch, accum, 0, 1), rows=right.rows)


def _shift_targets(original, self, *args):
    batch = original(self, *args)
    return replace(batch, targets=np.roll(batch.targets, -1, axis=-1))


def _forget_eps(original, spec, *others):
    return (
        original(spec, *others)
        .replace("eps: 1e-06", "eps: 1e-05")
        .replace("eps: 1e-6", "eps: 1e-5")
    )


def _delay_schedule(original, recipe, step, total):
    return original(recipe, max(step - 1, 0), total)


def _drop_floor(original, recipe, step, total):
    return original(replace(recipe, min_lr_ratio=0.0), step, total)


def _strip_text(original, self, text, **kwargs):
    return original(self, text.strip(), **kwargs)


def _encode_special(original, self, text, **kwargs):
    return [
        self.eos_id if text.startswith("<|eos|>") else t for t in original(self, text, **kwargs)
    ]


def _write_float16(original, tensors, descriptions):
    rounded = {n: np.asarray(t).astype(np.float16).astype(np.float32) for n, t in tensors.items()}
    return original(rounded, descriptions)


def _swap_moments(original, *args):
    slots = original(*args)
    return {**slots, "exp_avg": slots["exp_avg_sq"], "exp_avg_sq": slots["exp_avg"]}


def _share_stream(original, seed, purpose, shape, std):
    return original(seed, "weights", shape, std)


def _make_fault(name: str, part: str, law: str, plant: Plant, case: str = ONCE) -> Fault:
    return Fault(name, part, law, case, plant)


FAULTS = (
    _make_fault(
        "the order ignores the epoch",
        "data order",
        "L0/order",
        _change_function(order, "order_samples", _repeat_epoch, core_library, hashes),
    ),
    _make_fault(
        "one sample comes twice",
        "data order",
        "L0/order",
        _change_function(order, "order_samples", _repeat_sample, core_library, hashes),
    ),
    _make_fault(
        "every read begins the epoch anew",
        "data order",
        "L0/order",
        _change_function(order, "order_samples", _restart_epoch, core_library, hashes),
    ),
    _make_fault(
        "the order is another's",
        "data order",
        "L0/pins",
        _change_function(
            order, "order_samples", lambda o, seed, *rest: o(seed + 1, *rest), core_library, hashes
        ),
    ),
    _make_fault(
        "processes share a step rank by rank",
        "data order",
        "L0/shares",
        _change_method(text_dataset.TextDataset, "_make_batch", _order_by_rank),
    ),
    _make_fault(
        "targets are two ahead of their tokens",
        "data order",
        "L0/shares",
        _change_method(text_dataset.TextDataset, "_make_batch", _shift_targets),
    ),
    _make_fault(
        "MAL forgets an eps",
        "language",
        "L0/language",
        _change_function(writer, "dumps", _forget_eps, core_library, hashes),
        "block.norm=rmsnorm-offset/pre/fresh",
    ),
    _make_fault(
        "the schedule is a step late",
        "schedule",
        "L0/pins",
        _change_function(schedule, "compute_lr", _delay_schedule, hashes),
    ),
    _make_fault(
        "the schedule ends at zero",
        "schedule",
        "L0/pins",
        _change_function(schedule, "compute_lr", _drop_floor, hashes),
    ),
    _make_fault(
        "the tokenizer strips its text",
        "tokenizer",
        "L0/tokens",
        _change_method(Tokenizer, "encode", _strip_text),
    ),
    _make_fault(
        "names of special tokens in text become special",
        "tokenizer",
        "L0/tokens",
        _change_method(Tokenizer, "encode", _encode_special),
    ),
    _make_fault(
        "every tensor draws from one stream",
        "first weights",
        "L0/pins",
        _change_function(randomness, "draw_normals", _share_stream),
    ),
    _make_fault(
        "the residual's matrices start as the others",
        "first weights",
        "L0/pins",
        _change_function(
            randomness, "draw_normals", lambda o, seed, name, shape, std: o(seed, name, shape, 0.02)
        ),
    ),
    _make_fault(
        "files hold float16",
        "checkpoint",
        "L5/file",
        _change_function(safetensors, "encode_tensors", _write_float16),
        "move.tied/fresh",
    ),
    _make_fault(
        "moments are read the faulty way round",
        "checkpoint",
        "L5/file",
        _change_function(weights, "read_moments", _swap_moments, reader),
        "move.tied/fresh",
    ),
)
