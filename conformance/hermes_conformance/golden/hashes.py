"""Hashes of what the core library computes: weights, learning rates, data order, MAL, token ids.

They are the same on every machine. The pinned values are in golden/v1/pins.json; they change only
with a new version of the golden folder, and for a stated reason.
"""

import hashlib
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import numpy as np

from hermes.data.order import Cursor, order_samples
from hermes.mal import dumps
from hermes.numerics.params import init_weights
from hermes.recipe import Recipe
from hermes.storage.plain_json import load_json
from hermes.tokenizer import Tokenizer
from hermes.training.schedule import compute_lr
from hermes_conformance.cases.crossed_specs import make_crossed_specs
from hermes_conformance.cases.specs import make_field_specs, make_spec

VERSION = "v1"
SAMPLES, EPOCH = 10_000, 3_001
TEXTS = (
    "",
    "It was a bright cold day in April, and the clocks were striking 13.",
    "  two  spaces\tand a tab\r\nand lines\n\n",
    "na\u00efve caf\u00e9 \u4e16\u754c \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "<|eos|> is text here, and so is \x00\x7f",
)


def find_golden_folder() -> Path:
    """The folder of this version's golden vectors."""
    return Path(str(files("hermes_conformance") / "golden" / VERSION))


def read_pins() -> dict[str, object]:
    """The pinned values, as `compute_pins` gives them."""
    pins: dict[str, object] = load_json(
        (find_golden_folder() / "pins.json").read_text(encoding="utf-8")
    )
    return pins


def load_tokenizer() -> Tokenizer:
    """The golden folder's small tokenizer, trained once on a page of the project's own prose."""
    return Tokenizer.load(find_golden_folder() / "tokenizer.json")


def _hash_parts(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def hash_first_weights() -> str:
    """Initial weights of two models with seeds 0 and 20: names, shapes and bits."""
    specs = [make_spec(), make_field_specs()["attention.position_encoding=alibi-learned"]]
    return _hash_parts(
        f"{name}{value.shape}".encode() + value.astype("<f4").tobytes()
        for spec in specs
        for seed in (0, 20)
        for name, value in init_weights(spec, seed).items()
    )


def make_rate_recipes() -> list[tuple[Recipe, int]]:
    """Recipes with all schedules, each with the number of steps of its run."""
    return [
        (Recipe(schedule=schedule, warmup_steps=warmup, decay_ratio=0.3), total)
        for schedule in ("constant", "cosine", "wsd")
        for warmup in (0, 1, 10)
        for total in (1, 7, 200)
    ]


def hash_rates() -> str:
    """All learning rates of these runs, as hexadecimal floats."""
    return _hash_parts(
        f"{compute_lr(recipe, step, total).hex()}\n".encode()
        for recipe, total in make_rate_recipes()
        for step in range(total)
    )


def hash_order() -> str:
    """The order of the first samples of a run, for a little more than three epochs."""
    return _hash_parts([order_samples(20, Cursor(), SAMPLES, EPOCH).astype("<i8").tobytes()])


def hash_texts() -> str:
    """The canonical MAL of every architecture of single and of crossed fields."""
    return _hash_parts(
        dumps(spec).encode()
        for spec in (*make_field_specs().values(), *make_crossed_specs().values())
    )


def encode_texts() -> list[list[int]]:
    """The token ids of TEXTS."""
    return [load_tokenizer().encode(text) for text in TEXTS]


def compute_pins() -> dict[str, object]:
    """The values that this installation computes, by the names of pins.json."""
    return {
        "first_weights": hash_first_weights(),
        "rates": hash_rates(),
        "order": hash_order(),
        "mal": hash_texts(),
        "ids": encode_texts(),
    }


def has_whole_epochs(samples: np.ndarray) -> bool:
    """Whether each epoch has every sample once, and no two epochs have the same order."""
    epochs = [samples[i : i + EPOCH] for i in range(0, len(samples) - EPOCH + 1, EPOCH)]
    once = all(np.array_equal(np.sort(epoch), np.arange(EPOCH)) for epoch in epochs)
    return once and not any(np.array_equal(a, b) for i, a in enumerate(epochs) for b in epochs[:i])
