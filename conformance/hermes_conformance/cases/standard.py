"""The cases that levels share: every field of MAL, extreme sizes, and the other objectives."""

from dataclasses import replace
from functools import cache, partial

import numpy as np

from hermes.interface import IGNORE
from hermes.recipe import Lora, Preference, Recipe
from hermes.spec import (
    Alibi,
    AttentionSpec,
    FfnSpec,
    LinearScaling,
    ModelSpec,
    OutputSpec,
    Rope,
)
from hermes_conformance.cases.case import RECIPE, Case
from hermes_conformance.cases.crossed_specs import make_crossed_specs
from hermes_conformance.cases.specs import make_field_specs, make_spec
from hermes_conformance.cases.weights import (
    draw_empty_rows,
    draw_fresh,
    draw_hot,
    draw_level,
    draw_wide,
)


@cache
def make_standard_cases(long: bool = False) -> tuple[Case, ...]:
    """Every field with fresh and with hot weights, and every pair of fields with hot ones.

    Hot cases of single fields are packed and fresh ones are not; of the pairs, every other one is.
    `long` adds the pairs with fresh weights.
    """
    cases = []
    for name, spec in make_field_specs().items():
        cases.append(Case(f"{name}/fresh", spec, draw_fresh))
        cases.append(Case(f"{name}/hot", spec, draw_hot, packed=True))
    for n, (name, spec) in enumerate(make_crossed_specs().items()):
        cases.append(Case(f"{name}/hot", spec, draw_hot, packed=n % 2 == 0))
        if long:
            cases.append(Case(f"{name}/fresh", spec, draw_fresh, packed=n % 2 == 1))
    return tuple(cases)


@cache
def make_edge_cases() -> tuple[Case, ...]:
    """Extreme lengths, sizes and numbers."""
    plain, attention = make_spec(), AttentionSpec(4, 2)
    odd = make_spec(AttentionSpec(3, 1, position_encoding=Alibi()), hidden_size=15)
    window = make_spec(replace(attention, window_size=10))
    fast = make_spec(replace(attention, position_encoding=Rope(scaling=LinearScaling(1e-4))))
    bare = ModelSpec(
        blocks=make_spec(AttentionSpec(1), FfnSpec(1)).blocks,
        vocab_size=1,
        max_seq_len=32,
        hidden_size=2,
        num_layers=1,
    )
    learned = make_field_specs()["attention.position_encoding=learned"]
    saturated = make_spec(replace(attention, scale=3e4))
    hot = [
        Case("edge.one token/hot", plain, draw_hot, T=1),
        Case("edge.one token learned/hot", learned, draw_hot, T=1),
        Case("edge.full length/hot", plain, draw_hot, T=32),
        Case("edge.full length learned/hot", learned, draw_hot, T=32, packed=True),
        Case("edge.three rows/hot", plain, draw_hot, A=1, B=3, T=6),
        Case("edge.one row/hot", plain, draw_hot, A=3, B=1),
        Case("edge.no target in a micro-batch/hot", plain, draw_hot, blank_micro_batch=True),
        _keep_last_targets(Case("edge.one target/hot", plain, draw_hot, A=1, B=1), rows=1),
        Case("edge.window as long as the text/hot", window, draw_hot),
        Case("edge.position 100,000/hot", fast, draw_hot),
        Case("edge.odd sizes/hot", odd, draw_hot, packed=True),
        Case("edge.least sizes/hot", bare, draw_hot),
        Case("edge.loud logits/hot", plain, draw_hot, head_gain=1e4),
        Case("edge.loud logits tied/hot", _make_tied_spec(), draw_hot, head_gain=1e3),
        Case("edge.saturated attention/hot", saturated, draw_hot),
        Case("edge.saturated attention packed/hot", saturated, draw_hot, packed=True),
    ]
    return (*hot, Case("edge.one token/fresh", plain, draw_fresh, T=1))


def _make_tied_spec() -> ModelSpec:
    return make_field_specs()["embeddings.tie_weights=true"]


@cache
def make_objective_cases() -> tuple[Case, ...]:
    """Training other than by next tokens that count alike: preferences, adapters, weights."""
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
        "rslora": Lora(rank=3, alpha=6.0, rslora=True),
        "dora": Lora(rank=3, alpha=6.0, dora=True),
        "dora dropout": Lora(rank=3, dropout=0.2, dora=True),
        "token rows": Lora(rank=2, alpha=4.0, targets=("q_proj",), token_ids=(0, 7, 12)),
        # One each of the matrices that are joined where none of them is adapted.
        "keys and gates": Lora(rank=2, alpha=4.0, targets=("k_proj", "gate_proj")),
    }
    plain = {name: replace(RECIPE, lora=lora) for name, lora in adapters.items()}
    pairs = {
        name: replace(RECIPE, objective="preference", preference=rule)
        for name, rule in rules.items()
    }
    both = replace(pairs["sigmoid"], lora=adapters["every matrix"])
    no_margin = replace(pairs["simpo"], preference=Preference("simpo", beta=2.0, gamma=0.0))
    make_case = partial(Case, spec=make_spec(), make_weights=draw_hot, B=4)
    return (
        *(make_case(f"preference.{name}/hot", recipe=r) for name, r in pairs.items()),
        *(
            _make_undecided_case(name, pairs[name])
            for name in ("sigmoid", "sigmoid smoothed", "orpo")
        ),
        _make_undecided_case("simpo", no_margin),
        make_case("preference.one side empty/hot", recipe=pairs["sigmoid"], blank_micro_batch=True),
        *(
            make_case(
                f"preference.no target {name}/hot", recipe=pairs[name], blank_micro_batch=True
            )
            for name in ("sigmoid smoothed", "orpo", "simpo")
        ),
        make_case("preference.one pair/hot", recipe=pairs["sigmoid"], A=1, B=2),
        *(
            _keep_last_targets(make_case(f"preference.one token {name}/hot", recipe=pairs[name]))
            for name in ("sigmoid smoothed", "orpo", "simpo")
        ),
        _keep_last_targets(make_case("weighted.one target/hot", weighted=True, A=1, B=1), rows=1),
        *(make_case(f"lora.{name}/hot", recipe=r) for name, r in plain.items()),
        make_case("lora.preference/hot", recipe=both),
        make_case("weighted.targets/hot", weighted=True),
        make_case("weighted.packed/hot", weighted=True, packed=True),
        make_case("preference.weighted/hot", recipe=pairs["sigmoid"], weighted=True),
        make_case("z_loss.targets/hot", recipe=replace(RECIPE, z_loss=0.02)),
        Case(
            "z_loss.capped/hot",
            make_spec(output=OutputSpec(softcap=5.0, scale=0.7, bias=True)),
            draw_hot,
            B=4,
            packed=True,
            weighted=True,
            recipe=replace(RECIPE, z_loss=0.02),
        ),
        Case(
            "lora.biases/hot",
            make_field_specs()["attention.bias=all"],
            draw_hot,
            recipe=plain["every matrix"],
        ),
        Case(
            "lora.dora biases/hot",
            make_field_specs()["attention.bias=all"],
            draw_hot,
            recipe=plain["dora"],
        ),
        Case("lora.dora empty rows/empty rows", make_spec(), draw_empty_rows, recipe=plain["dora"]),
        Case("lora.token rows tied/hot", _make_tied_spec(), draw_hot, recipe=plain["token rows"]),
        make_case(
            "lora.token rows preference/hot",
            recipe=replace(pairs["sigmoid"], lora=adapters["token rows"]),
        ),
    )


def _keep_last_targets(case: Case, rows: int = 2) -> Case:
    """Every `rows`-th row counts its last target alone, so that its mean divides by 1."""
    targets = case.batch.targets.copy()
    for index in np.ndindex(targets.shape[:2]):
        counted = np.flatnonzero(targets[index] != IGNORE)
        if index[1] % rows == 0:
            targets[index][counted[:-1]] = IGNORE
    return replace(case, fixed_batch=replace(case.batch, targets=targets))


@cache
def make_wide_cases() -> tuple[Case, ...]:
    """Weights that float32 cannot hold, with every kind of tensor."""
    specs = make_field_specs()
    names = ("default", "attention.bias=all", "output.bias=true/tied")
    return tuple(Case(f"wide.{name}/hot", specs[name], draw_wide) for name in names)


def _make_undecided_case(name: str, recipe: Recipe) -> Case:
    """Pairs whose rows are equally likely to the last bit: h is 0, as at the start of a run."""
    case = Case(f"undecided.{name}/level", make_spec(), draw_level, B=4, recipe=recipe)
    batch, P = case.make_batch(0), case.B // 2
    assert batch.pairs is not None, "the objective is preferences"
    targets = batch.targets.copy()
    targets[:, P:][targets[:, :P] == IGNORE] = IGNORE
    pairs = replace(batch.pairs, reference=np.tile(batch.pairs.reference[:, :P], 2))
    return replace(case, fixed_batch=replace(batch, targets=targets, pairs=pairs))
