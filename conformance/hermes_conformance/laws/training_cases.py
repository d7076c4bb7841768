"""The training runs of L4, and how long they are."""

from dataclasses import replace
from functools import cache
from typing import Any

from hermes.optimizer_recipe import STOCHASTIC
from hermes.recipe import Lora, OptimizerRecipe, Preference, Recipe
from hermes.spec import AttentionSpec, EmbeddingsSpec, FfnSpec, Learned, ModelSpec, OutputSpec
from hermes_conformance.cases.case import RECIPE, Case
from hermes_conformance.cases.crossed_specs import make_crossed_specs
from hermes_conformance.cases.specs import make_field_specs, make_spec
from hermes_conformance.cases.weights import draw_fresh, draw_hot
from hermes_conformance.golden.vectors import read_stored_cases

STEPS, LONG_STEPS, SHORT_STEPS, FEW_STEPS = 30, 100, 6, 12
# Runs with other optimizers than AdamW, or with more than it.
NEW_RULES = ("train.muon", "train.normuon", "train.lion", "train.adafactor", "train.groups")
QUIET_HEAD = (("lm_head.*", "lr=1e-12,weight_decay=0"),)
FULL_LENGTH = ("train.dropout", "train.gpt2", "train.other rule", "train.hot")
TRAINING_RECIPE = replace(
    RECIPE,
    schedule="cosine",
    warmup_steps=5,
    lr=3e-3,
    grad_clip=0.5,
    min_lr_ratio=0.05,
)


def count_steps(case: Case) -> int:
    """The steps of a float64 run of the case."""
    if case.name.startswith("train.long"):
        return LONG_STEPS
    return STEPS if case.name.startswith(FULL_LENGTH) else FEW_STEPS


def _make_case(name: str, spec: ModelSpec, recipe: Recipe = TRAINING_RECIPE, *, B: int = 2) -> Case:
    return Case(f"train.{name}/fresh", spec, draw_fresh, B=B, recipe=recipe)


def _make_optimizer_cases() -> tuple[Case, ...]:
    """Every optimizer beside AdamW, with both of Muon's scales; groups, and an average."""

    def make(name: str, spec: ModelSpec, optimizer: OptimizerRecipe, **fields: Any) -> Case:
        return _make_case(name, spec, replace(TRAINING_RECIPE, optimizer=optimizer, **fields))

    biased = make_field_specs()["attention.bias=all"]
    groups = (
        ("lm_head.*", "lr=2e-4,weight_decay=0"),
        ("*.0.self_attn.?_proj.*", "lr_scale=2"),
        ("*.self_attn.*", "lr_scale=0.5"),
    )
    large = make_spec(ffn=FfnSpec(1_030), vocab_size=1_100, hidden_size=128, num_layers=1)
    original = OptimizerRecipe("muon", muon_scale="original", nesterov=False, weight_decay=0.3)
    return (
        make("muon", make_spec(), OptimizerRecipe("muon"), ema=0.9),
        # A head so small, and kept so, that the gradients behind it are below Muon's least norm.
        replace(
            make("quiet muon", make_spec(), OptimizerRecipe("muon"), groups=QUIET_HEAD),
            head_gain=2.0**-20,
        ),
        make("muon original", biased, original, groups=groups),
        make("normuon", make_spec(), OptimizerRecipe("normuon", momentum=0.8)),
        make("lion", biased, OptimizerRecipe("lion", beta2=0.98), lr=3e-4),
        make("adafactor", biased, OptimizerRecipe("adafactor")),
        make("groups short", biased, OptimizerRecipe(moments="bfloat16"), groups=groups),
        make(
            "groups stochastic",
            biased,
            OptimizerRecipe(moments=STOCHASTIC, beta2=0.999),
            groups=groups,
        ),
        make("groups float8", biased, OptimizerRecipe(moments="float8"), groups=groups),
        make("muon float8", make_spec(), OptimizerRecipe("muon", moments="float8")),
        # Matrices of more than 2^17 elements, of which backends update some rows at a time.
        make("large muon float8", large, OptimizerRecipe("muon", moments="float8")),
        make("muon short", make_spec(), OptimizerRecipe("muon", moments="bfloat16")),
        make("groups", biased, OptimizerRecipe(), groups=groups, ema=0.8),
    )


@cache
def make_cases(long: bool = False) -> tuple[Case, ...]:
    """The cases of L4: runs that warm up and clip, and tiny ones that the oracle has trained."""
    every_dropout = make_field_specs()["every dropout"]
    gpt2 = make_spec(
        AttentionSpec(4, bias="all", position_encoding=Learned()),
        FfnSpec(40, "gelu_tanh", bias=True),
        embeddings=EmbeddingsSpec(tie_weights=True),
    )
    other_rule = OptimizerRecipe(beta1=0.8, beta2=0.99, eps=1e-4, weight_decay=0.3)
    preference = replace(TRAINING_RECIPE, objective="preference", preference=Preference(beta=0.3))
    cases = [
        _make_case("dropout", every_dropout),
        _make_case("gpt2", gpt2, replace(TRAINING_RECIPE, schedule="wsd", decay_ratio=0.3)),
        _make_case("frozen", make_spec(num_layers=3), replace(TRAINING_RECIPE, freeze_layers=1)),
        _make_case(
            "frozen names",
            make_field_specs()["attention.bias=qkv"],
            replace(TRAINING_RECIPE, freeze=("*.embed_tokens.*", "*.0.mlp.*", "*.1.*norm*")),
        ),
        replace(
            _make_case("other rule", make_spec(), replace(TRAINING_RECIPE, optimizer=other_rule)),
            packed=True,
        ),
        _make_case(
            "rarely clipped",
            make_spec(),
            replace(TRAINING_RECIPE, grad_clip=4.0, schedule="constant"),
        ),
        _make_case(
            "unclipped", make_spec(), replace(TRAINING_RECIPE, grad_clip=0.0, schedule="constant")
        ),
        _make_case("a tensor without gradient", make_field_specs()["attention.mask=self"]),
        replace(_make_case("blank", make_spec()), blank_micro_batch=True),
        _make_case(
            "lora", make_spec(), replace(TRAINING_RECIPE, lora=Lora(rank=3, dropout=0.1), lr=1e-3)
        ),
        _make_case(
            "lora rows",
            make_field_specs()["embeddings.tie_weights=true"],
            replace(TRAINING_RECIPE, lora=Lora(rank=3, dora=True, token_ids=(1, 5, 9)), lr=1e-3),
        ),
        _make_case("preference", make_spec(), preference, B=4),
        *_make_optimizer_cases(),
        _make_case("crossed", make_crossed_specs()["crossed.003"]),
        Case("train.hot/hot", make_spec(), draw_hot, recipe=TRAINING_RECIPE),
    ]
    # Documents and a softcap in one compiled loss, and below the same with pairs.
    capped = make_spec(num_layers=1, output=OutputSpec(softcap=5.0))
    cases.append(Case("compiled.packed/hot", capped, draw_hot, packed=True, recipe=TRAINING_RECIPE))
    cases.append(Case("compiled.causal/hot", capped, draw_hot, recipe=TRAINING_RECIPE))
    cases.append(Case("evaluated pairs/hot", capped, draw_hot, B=4, recipe=preference))
    cases += [case for case in read_stored_cases() if case.name.startswith("run.")]
    if long:
        one_layer = replace(every_dropout, num_layers=1)
        cases += [
            _make_case("long", every_dropout),
            Case("compiled.pairs/hot", capped, draw_hot, B=4, packed=True, recipe=preference),
            Case("compiled.dropout/hot", one_layer, draw_hot, recipe=TRAINING_RECIPE),
        ]
    return tuple(cases)
