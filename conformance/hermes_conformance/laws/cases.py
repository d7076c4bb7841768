"""Which cases each level runs on."""

from dataclasses import replace
from functools import cache

import numpy as np

from hermes.interface import IGNORE
from hermes.recipe import Lora, Preference, Recipe
from hermes.spec import Alibi, AttentionSpec, FfnSpec, LinearScaling, ModelSpec, Rope
from hermes_conformance.cases.case import RECIPE, Case
from hermes_conformance.cases.specs import crossed, fields, model
from hermes_conformance.cases.weights import fresh, hot, level
from hermes_conformance.golden.vectors import stored_cases


@cache
def standard(long: bool = False) -> tuple[Case, ...]:
    """Every field with fresh and hot weights, and every pair of fields with hot ones.

    Hot cases of fields are packed, fresh ones are not; of the pairs, every other one is. `long`
    adds the pairs with fresh weights.
    """
    made = []
    for name, spec in fields().items():
        made.append(Case(f"{name}/fresh", spec, fresh))
        made.append(Case(f"{name}/hot", spec, hot, packed=True))
    for n, (name, spec) in enumerate(crossed().items()):
        made.append(Case(f"{name}/hot", spec, hot, packed=n % 2 == 0))
        if long:
            made.append(Case(f"{name}/fresh", spec, fresh, packed=n % 2 == 1))
    return tuple(made)


@cache
def edges() -> tuple[Case, ...]:
    """Where lengths, sizes and numbers are extreme."""
    plain, attention = model(), AttentionSpec(4, 2)
    odd = model(AttentionSpec(3, 1, position_encoding=Alibi()), hidden_size=15)
    window = model(replace(attention, window_size=10))
    fast = model(replace(attention, position_encoding=Rope(scaling=LinearScaling(1e-4))))
    bare = ModelSpec(
        blocks=model(AttentionSpec(1), FfnSpec(1)).blocks,
        vocab_size=1,
        max_seq_len=32,
        hidden_size=2,
        num_layers=1,
    )
    learned = fields()["attention.position_encoding=learned"]
    saturated = model(replace(attention, scale=3e4))
    made = [
        Case("edge.one token/hot", plain, hot, T=1),
        Case("edge.one token learned/hot", learned, hot, T=1),
        Case("edge.full length/hot", plain, hot, T=32),
        Case("edge.full length learned/hot", learned, hot, T=32, packed=True),
        Case("edge.three rows/hot", plain, hot, A=1, B=3, T=6),
        Case("edge.one row/hot", plain, hot, A=3, B=1),
        Case("edge.no target in a micro-batch/hot", plain, hot, blank=True),
        Case("edge.window as long as the text/hot", window, hot),
        Case("edge.position 100,000/hot", fast, hot),
        Case("edge.odd sizes/hot", odd, hot, packed=True),
        Case("edge.least sizes/hot", bare, hot),
        Case("edge.loud logits/hot", plain, hot, gain=1e4),
        Case("edge.loud logits tied/hot", _tied(), hot, gain=1e3),
        Case("edge.saturated attention/hot", saturated, hot),
        Case("edge.saturated attention packed/hot", saturated, hot, packed=True),
    ]
    return (*made, Case("edge.one token/fresh", plain, fresh, T=1))


def _tied() -> ModelSpec:
    return fields()["embeddings.tie_weights=true"]


@cache
def objectives() -> tuple[Case, ...]:
    """What is trained besides the next token of every weight: preferences and adapters."""
    rules = {
        "sigmoid": Preference(beta=0.5),
        "sigmoid smoothed": Preference(beta=0.5, label_smoothing=0.2, sft_weight=0.3),
        "ipo": Preference("ipo", beta=0.5),
        "hinge": Preference("hinge", beta=0.1),
        "orpo": Preference("orpo", beta=0.7),
        "simpo": Preference("simpo", beta=2.0, gamma=0.4),
    }
    adapters = {
        "every matrix": Lora(rank=3, alpha=6.0),
        "queries and values": Lora(rank=2, alpha=8.0, targets=("q_proj", "v_proj")),
        "dropout": Lora(rank=3, dropout=0.2),
    }
    plain = {name: replace(RECIPE, lora=lora) for name, lora in adapters.items()}
    pairs = {
        name: replace(RECIPE, objective="preference", preference=rule)
        for name, rule in rules.items()
    }
    both = replace(pairs["sigmoid"], lora=adapters["every matrix"])
    usual = {"spec": model(), "make": hot, "B": 4}
    by_chance = replace(pairs["simpo"], preference=Preference("simpo", beta=2.0, gamma=0.0))
    return (
        *(Case(f"preference.{name}/hot", recipe=r, **usual) for name, r in pairs.items()),
        *(_undecided(name, pairs[name]) for name in ("sigmoid", "sigmoid smoothed", "orpo")),
        _undecided("simpo", by_chance),
        Case("preference.one side empty/hot", recipe=pairs["sigmoid"], blank=True, **usual),
        *(Case(f"lora.{name}/hot", recipe=r, **usual) for name, r in plain.items()),
        Case("lora.preference/hot", recipe=both, **usual),
        Case("lora.biases/hot", fields()["attention.bias=all"], hot, recipe=plain["every matrix"]),
    )


def _undecided(name: str, recipe: Recipe) -> Case:
    """Both sides of each pair equally likely to the last bit: h is 0, as where a run begins."""
    drawn = Case(f"undecided.{name}/level", model(), level, B=4, recipe=recipe)
    batch, P = drawn.update(0), drawn.B // 2
    assert batch.pairs is not None, "the objective is preferences"
    targets = batch.targets.copy()
    targets[:, P:][targets[:, :P] == IGNORE] = IGNORE
    pairs = replace(batch.pairs, reference=np.tile(batch.pairs.reference[:, :P], 2))
    return replace(drawn, fixed=replace(batch, targets=targets, pairs=pairs))


@cache
def golden() -> tuple[Case, ...]:
    """The committed vectors."""
    return tuple(case for case in stored_cases() if case.name.startswith("golden."))


def semantics(long: bool = False) -> tuple[Case, ...]:
    """Of L1."""
    return (*standard(long), *edges(), *objectives(), *golden())
