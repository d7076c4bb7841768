"""What updating a tensor takes is what a plan counts, and rows are updated as the whole is."""

import pytest
import torch

from hermes.model_info import update_memory
from hermes.model_info.update_memory import Updates, count_update_bytes
from hermes.numerics.moment_format import FORMATS
from hermes.numerics.params import Tensor
from hermes.numerics.update_rules import UpdateRule
from hermes.optimizer_recipe import STOCHASTIC
from hermes.recipe import OptimizerRecipe
from hermes_torch import optim
from hermes_torch.moment_format import KeyedMoment, ShortMoment, StochasticMoment
from hermes_torch.optim import update_exact
from hermes_torch.update_rules import update_average, update_by_rule
from tests.model_info.measuring import measure_allocated

FINITE = torch.tensor(True)
MOMENTS = ("float32", "bfloat16", "bfloat16-stochastic", "float8")
CHUNKS = (1 << 20, 1 << 13)


def make_moment(slot, shape, moments):
    if moments == "float8":
        empty = torch.empty(0, dtype=torch.uint8)
        moment = ShortMoment(empty, empty, FORMATS[slot], 0)
        moment.write(torch.rand(shape), 0)
        return moment
    if moments == STOCHASTIC:
        moment = StochasticMoment(torch.empty(0))
        moment.write(torch.rand(shape), 0)
        return moment
    return torch.zeros(shape, dtype=getattr(torch, moments))


def read_words(moment):
    if isinstance(moment, StochasticMoment):
        return moment.values
    return moment.codes if isinstance(moment, ShortMoment) else moment


def update(rule, p, g, kept):
    """An update as hermes_torch.optimizer.Optimizer makes it of moments rounded at random."""
    wide = {k: m.read(p.dtype) if isinstance(m, KeyedMoment) else m for k, m in kept.items()}
    settings = {"lr": 1e-3, "step": 2, "applied": FINITE}
    if rule.algorithm == "adamw":
        moments = wide["exp_avg"], wide["exp_avg_sq"]
        update_exact([(p, g, *moments)], decay=1.0, rule=rule.recipe, **settings)
    else:
        update_by_rule(p, g, wide, rule=rule, **settings)
    for slot, m in kept.items():
        if isinstance(m, KeyedMoment):
            m.write(wide[slot], 7)


@pytest.mark.parametrize("shape", [(300, 200), (400, 100)])
@pytest.mark.parametrize(
    ("name", "moments", "chunk"),
    [
        *(("adamw", moments, chunk) for moments in MOMENTS[1:] for chunk in CHUNKS),
        *(("lion", moments, chunk) for moments in MOMENTS for chunk in CHUNKS),
        *(("muon", moments, CHUNKS[0]) for moments in MOMENTS),
        ("normuon", "float32", CHUNKS[0]),
        ("adafactor", "float32", CHUNKS[0]),
    ],
)
def test_an_update_takes_what_is_counted(name, moments, shape, chunk, monkeypatch):
    monkeypatch.setattr(optim, "UPDATED_AT_ONCE", chunk)
    monkeypatch.setattr(update_memory, "CHUNKS", (chunk, chunk))
    rule = UpdateRule(name, 1.0, True, OptimizerRecipe(name))
    kept = {
        slot: make_moment(slot, own, moments if own == shape else "float32")
        for slot, own in rule.list_slots(shape).items()
    }
    p, g = torch.rand(shape), torch.rand(shape)
    found = measure_allocated(lambda: update(rule, p, g, kept))
    table = {"p": Tensor(shape, "ffn", "normal")}
    counted = count_update_bytes(table, {"p": rule}, Updates(moments))
    assert counted == pytest.approx(found, rel=0.04)


@pytest.mark.parametrize("slots", MOMENTS)
@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_rows_are_updated_as_the_whole_tensor_is(name, slots, monkeypatch):
    """To the bit, numbers that are rounded at random by their place among them."""
    rule, found = UpdateRule(name, 1.0, True, OptimizerRecipe(name)), []
    for chunk in (1 << 20, 1000):
        monkeypatch.setattr(optim, "UPDATED_AT_ONCE", chunk)
        torch.manual_seed(0)
        p, g = torch.randn(23, 300), torch.randn(23, 300)
        kept = {slot: make_moment(slot, shape, slots)
                for slot, shape in rule.list_slots((23, 300)).items()}  # fmt: skip
        update(rule, p, g, kept)
        e = torch.zeros(23, 300)
        update_average(e, p, 0.9, FINITE)
        words = [read_words(x) for x in kept.values()]
        found.append([p, e, *words])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_memory_of_an_update_does_not_grow_with_the_tensor(monkeypatch):
    """But for the whole ones of muon and adafactor, and moments in 8 bits, which are widened."""
    monkeypatch.setattr(update_memory, "CHUNKS", (1 << 13, 1 << 13))

    def count(name, moments, rows):
        rule = UpdateRule(name, 1.0, True, OptimizerRecipe(name))
        table = {"p": Tensor((rows, 64), "ffn", "normal")}
        return count_update_bytes(table, {"p": rule}, Updates(moments))

    for name, moments in (("adamw", "bfloat16"), ("lion", "float32"), ("lion", "bfloat16")):
        assert count(name, moments, 1 << 10) == count(name, moments, 1 << 8)
    assert count("muon", "float32", 1 << 10) > 3 * count("muon", "float32", 1 << 8)
