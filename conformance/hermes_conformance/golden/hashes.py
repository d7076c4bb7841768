"""What hermes must do alike everywhere, in numbers small enough to keep: hashes and token ids.

The pinned values are in golden/v1/pins.json, beside the vectors. They change only with a new
version of the golden folder and its reason.
"""

import hashlib
import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import numpy as np

from hermes.data.order import Cursor, order_samples
from hermes.mal import dumps
from hermes.numerics.params import init_weights
from hermes.recipe import Recipe
from hermes.tokenizer import Tokenizer
from hermes.training.schedule import compute_lr
from hermes_conformance.cases.specs import crossed, fields, model

VERSION = "v1"
SAMPLES, EPOCH = 10_000, 3_001
TEXTS = (
    "",
    "It was a bright cold day in April, and the clocks were striking 13.",
    "  two  spaces\tand a tab\r\nand lines\n\n",
    "na\u00efve caf\u00e9 \u4e16\u754c \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "<|eos|> is text here, and so is \x00\x7f",
)


def golden_folder() -> Path:
    """The golden vectors of this version."""
    return Path(str(files("hermes_conformance") / "golden" / VERSION))


def pinned() -> dict[str, object]:
    """What was pinned."""
    return json.loads((golden_folder() / "pins.json").read_text(encoding="utf-8"))


def tokenizer() -> Tokenizer:
    """A small tokenizer, trained once on a page of the project's own prose."""
    return Tokenizer.load(golden_folder() / "tokenizer.json")


def _digest(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def first_weights() -> str:
    """Every tensor of two models' first weights, seeds 0 and 20: names, shapes, bits."""
    specs = [model(), fields()["attention.position_encoding=alibi-learned"]]
    return _digest(
        f"{name}{value.shape}".encode() + value.astype("<f4").tobytes()
        for spec in specs
        for seed in (0, 20)
        for name, value in init_weights(spec, seed).items()
    )


def rate_recipes() -> list[tuple[Recipe, int]]:
    """Schedules and the updates of their runs."""
    return [
        (Recipe(schedule=schedule, warmup_steps=warmup, decay_ratio=0.3), total)
        for schedule in ("constant", "cosine", "wsd")
        for warmup in (0, 1, 10)
        for total in (1, 7, 200)
    ]


def rates() -> str:
    """Every learning rate of every schedule, as hexadecimal floats."""
    return _digest(
        f"{compute_lr(recipe, step, total).hex()}\n".encode()
        for recipe, total in rate_recipes()
        for step in range(total)
    )


def order() -> str:
    """The first samples of a run that sees its data three times and a bit."""
    return _digest([order_samples(20, Cursor(), SAMPLES, EPOCH).astype("<i8").tobytes()])


def texts() -> str:
    """The canonical MAL of every architecture of the fixtures."""
    return _digest(dumps(spec).encode() for spec in (*fields().values(), *crossed().values()))


def ids() -> list[list[int]]:
    """The token ids of TEXTS."""
    return [tokenizer().encode(text) for text in TEXTS]


def pins() -> dict[str, object]:
    """All of them as they are now."""
    return {
        "first_weights": first_weights(),
        "rates": rates(),
        "order": order(),
        "mal": texts(),
        "ids": ids(),
    }


def whole_epochs(samples: np.ndarray) -> bool:
    """Whether each epoch has every sample once, and no two epochs the same order."""
    cut = [samples[i : i + EPOCH] for i in range(0, len(samples) - EPOCH + 1, EPOCH)]
    once = all(np.array_equal(np.sort(epoch), np.arange(EPOCH)) for epoch in cut)
    return once and not any(np.array_equal(a, b) for i, a in enumerate(cut) for b in cut[:i])
