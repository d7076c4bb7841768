"""Faults of what stands above the backends: language, tokens, order, schedule, files."""

from dataclasses import replace

import numpy as np

from hermes.checkpoint import reader, weights
from hermes.data import order, text_dataset
from hermes.mal import writer
from hermes.numerics import randomness
from hermes.storage import safetensors
from hermes.tokenizer import Tokenizer
from hermes.training import schedule
from hermes_conformance.faults.fault import Fault, Inside
from hermes_conformance.golden import hashes
from hermes_conformance.laws import core

ONCE = "default/fresh"


def _above(module, name, change, *holders):
    """change(original, ...) in the place of module.name, in every holder that imported it."""

    def plant(inside: Inside) -> None:
        original = getattr(module, name)

        def wrong(*given, **more):
            return change(original, *given, **more)

        inside.function(original, lambda _: wrong)
        for holder in holders:
            for attribute, value in list(vars(holder).items()):
                if value is original:
                    inside.replace(holder, attribute, wrong)

    return plant


def _method(cls, name, change):
    def plant(inside: Inside) -> None:
        inside.wrap(
            cls,
            name,
            lambda original: lambda self, *given, **more: change(original, self, *given, **more),
        )

    return plant


def _same_epoch(original, seed, cursor, count, size):
    epoch = original(seed, order.Cursor(), size, size)
    return epoch[(cursor.sample + np.arange(count)) % size]


def _one_twice(original, seed, cursor, count, size):
    found = original(seed, cursor, count, size)
    return np.where(found == size - 1, 0, found)


def _from_its_start(original, seed, cursor, count, size):
    """Every part of an order begins with its first sample."""
    return original(seed, replace(cursor, sample=0), count, size)


def _rank_first(original, self, taken, micro_batch, accum, rank, world):
    right = original(self, taken, micro_batch, accum, rank, world)
    first = rank * micro_batch * accum
    return replace(
        original(self, np.roll(taken, -first), micro_batch, accum, 0, 1), rows=right.rows
    )


def _two_ahead(original, self, *given):
    batch = original(self, *given)
    return replace(batch, targets=np.roll(batch.targets, -1, axis=-1))


def _without_eps(original, spec, *others):
    return (
        original(spec, *others)
        .replace("eps: 1e-06", "eps: 1e-05")
        .replace("eps: 1e-6", "eps: 1e-5")
    )


def _late(original, recipe, step, total):
    return original(recipe, max(step - 1, 0), total)


def _no_floor(original, recipe, step, total):
    return original(replace(recipe, min_lr_ratio=0.0), step, total)


def _stripped(original, self, text, **more):
    return original(self, text.strip(), **more)


def _special(original, self, text, **more):
    return [self.eos_id if text.startswith("<|eos|>") else t for t in original(self, text, **more)]


def _short(original, given, kinds):
    rounded = {n: np.asarray(given[n]).astype(np.float16).astype(np.float32) for n in given}
    return original(rounded, kinds)


def _swapped(original, *given):
    first, second = original(*given)
    return second, first


def _streams_shared(original, seed, purpose, shape, std):
    return original(seed, "weights", shape, std)


def _fault(name, part, law, plant, case=ONCE):
    return Fault(name, part, law, case, plant)


FAULTS = (
    _fault(
        "the order ignores the epoch",
        "data order",
        "L0/order",
        _above(order, "order_samples", _same_epoch, core, hashes),
    ),
    _fault(
        "one sample comes twice",
        "data order",
        "L0/order",
        _above(order, "order_samples", _one_twice, core, hashes),
    ),
    _fault(
        "every read begins the epoch anew",
        "data order",
        "L0/order",
        _above(order, "order_samples", _from_its_start, core, hashes),
    ),
    _fault(
        "the order is another's",
        "data order",
        "L0/pins",
        _above(order, "order_samples", lambda o, seed, *rest: o(seed + 1, *rest), core, hashes),
    ),
    _fault(
        "processes share an update rank by rank",
        "data order",
        "L0/shares",
        _method(text_dataset.TextDataset, "_make_batch", _rank_first),
    ),
    _fault(
        "targets are two ahead of their tokens",
        "data order",
        "L0/shares",
        _method(text_dataset.TextDataset, "_make_batch", _two_ahead),
    ),
    _fault(
        "MAL forgets an eps",
        "language",
        "L0/language",
        _above(writer, "dumps", _without_eps, core, hashes),
        "block.norm=rmsnorm-offset/pre/fresh",
    ),
    _fault(
        "the schedule is an update late",
        "schedule",
        "L0/pins",
        _above(schedule, "compute_lr", _late, hashes),
    ),
    _fault(
        "the schedule ends at zero",
        "schedule",
        "L0/pins",
        _above(schedule, "compute_lr", _no_floor, hashes),
    ),
    _fault(
        "the tokenizer strips its text",
        "tokenizer",
        "L0/tokens",
        _method(Tokenizer, "encode", _stripped),
    ),
    _fault(
        "names of special tokens in text become special",
        "tokenizer",
        "L0/tokens",
        _method(Tokenizer, "encode", _special),
    ),
    _fault(
        "every tensor draws from one stream",
        "first weights",
        "L0/pins",
        _above(randomness, "draw_normals", _streams_shared),
    ),
    _fault(
        "the residual's matrices start as the others",
        "first weights",
        "L0/pins",
        _above(
            randomness, "draw_normals", lambda o, seed, name, shape, std: o(seed, name, shape, 0.02)
        ),
    ),
    _fault(
        "files hold float16",
        "checkpoint",
        "L5/file",
        _above(safetensors, "encode_tensors", _short),
        "move.tied/fresh",
    ),
    _fault(
        "moments are read the wrong way round",
        "checkpoint",
        "L5/file",
        _above(weights, "read_moments", _swapped, reader),
        "move.tied/fresh",
    ),
)
