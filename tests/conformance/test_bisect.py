"""Bisection names the first tensor that parts, and says where in it."""

import shutil
import sys
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path

import pytest

from hermes.errors import Unsupported
from hermes.numerics.params import list_parameters
from hermes_conformance.bisect import first_difference
from hermes_conformance.bisect.activations import CACHED, DROPPED, WHOLE, trace
from hermes_conformance.faults.fault import Inside
from hermes_conformance.faults.self_test import FAULTS
from hermes_conformance.laws.cases import standard
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.law import Sides
from hermes_conformance.measure.subject import BackendUnderTest

BACKENDS = pytest.mark.parametrize("backend", ["torch", "mlx"])


def case_named(name):
    return next(case for case in standard() if case.name == name)


@contextmanager
def planted(name, backend):
    fault = next(fault for fault in FAULTS if fault.name == name)
    with ExitStack() as stack:
        fault.plant(Inside(backend, stack))
        yield case_named(fault.case)


@BACKENDS
def test_a_good_backend_parts_nowhere(sides, backend):
    found, case = sides(backend), case_named("model.pattern/hot")
    assert first_difference.forward(found, case, tolerance.PART_64) is None
    assert first_difference.forward(found, case, tolerance.PART_32, "float32") is None
    assert first_difference.forward(found, case, tolerance.PART_BF16, "bfloat16") is None
    assert first_difference.backward(found, case) is None


@BACKENDS
@pytest.mark.parametrize("way", [WHOLE, CACHED, DROPPED], ids=lambda way: way.name)
def test_a_good_backend_parts_in_no_way(sides, backend, way):
    found, case = sides(backend), case_named("every dropout/hot")
    assert way in first_difference.ways(found, case)
    assert first_difference.forward(found, case, tolerance.PART_64, way=way) is None
    assert first_difference.forward(found, case, tolerance.PART_BF16, "bfloat16", way) is None
    names = [record.name for record in trace(found.subject, case, way=way)]
    assert ("micro-batch 1: layers.0: after dropout at site 3" in names) == (way is DROPPED)
    assert ("read 5 of 5, from token 9: lm_head" in names) == (way is CACHED)


@BACKENDS
@pytest.mark.parametrize(
    ("fault", "way", "named"),
    [
        (
            "single steps write the first row's keys",
            CACHED,
            "read 3 of 5, from token 7: layers.0.self_attn: k read by attention, row 1, head 0, "
            "position 7",
        ),
        (
            "layers share a cache",
            CACHED,
            "read 2 of 5, from token 5: layers.0.self_attn: k read by attention, row 0, head",
        ),
        (
            "layers share their masks",
            DROPPED,
            "micro-batch 0: layers.0: after dropout at site 4, row 0, position 1",
        ),
        (
            "masks begin anew in each micro-batch",
            DROPPED,
            "micro-batch 1: model: after dropout at site 0, row 0, position 5",
        ),
        (
            "dropout drops nothing",
            DROPPED,
            "micro-batch 0: layers.0.input_layernorm where micro-batch 0: model: after dropout at "
            "site 0 was due",
        ),
    ],
)
def test_a_fault_of_the_cache_or_of_dropout_is_named(sides, backend, fault, way, named):
    with planted(fault, backend) as case:
        found = sides(backend)
        assert first_difference.forward(found, case, tolerance.PART_64) is None
        parting = first_difference.forward(found, case, tolerance.PART_64, way=way)
    assert str(parting).startswith(named)


def test_the_ways_are_those_that_the_case_has(sides):
    found = sides("torch")
    assert first_difference.ways(found, case_named("default/hot")) == (WHOLE, CACHED)
    assert first_difference.ways(found, case_named("attention.mask=both/hot")) == (WHOLE,)
    dropping = case_named("every dropout/hot")
    assert first_difference.ways(found, dropping) == (WHOLE, DROPPED, CACHED)
    oracle = Sides(found.oracle, found.subject, found.oracle)
    assert first_difference.ways(oracle, dropping) == (WHOLE, CACHED)


@BACKENDS
def test_bfloat16_still_names_what_a_fault_parts(sides, backend):
    with planted("rope turns no keys", backend) as case:
        parting = first_difference.forward(sides(backend), case, tolerance.PART_BF16, "bfloat16")
    assert parting.tensor == "layers.0.self_attn: k after rope"


@BACKENDS
@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("rope turns no keys", "layers.0.self_attn: k after rope, row 0, head 0, position 3"),
        ("nothing is causal", "layers.0.self_attn: values mixed, row 0, head 2, position 6"),
        ("the final norm alone has another eps", "norm, row 0, position 6"),
        ("silu is gelu", "layers.0.mlp: after the activation, row 1, position 0"),
        ("the values' bias is ignored", "layers.0.self_attn.v_proj, row 0, position 7"),
    ],
)
def test_the_first_tensor_that_parts_is_named(sides, backend, fault, named):
    with planted(fault, backend) as case:
        parting = first_difference.forward(sides(backend), case, tolerance.PART_64)
    assert str(parting).startswith(named)
    assert "relative error" in str(parting)


@BACKENDS
def test_a_pass_that_goes_another_way_is_named(sides, backend):
    with planted("the second norm is the first one again", backend) as case:
        parting = first_difference.forward(sides(backend), case, tolerance.PART_64)
    assert str(parting) == (
        "layers.0.input_layernorm where layers.0.post_attention_layernorm was due"
    )


@pytest.mark.parametrize("against", ["numpy", "mlx"])
def test_the_first_gradient_that_parts_is_named_from_the_output_backwards(sides, against):
    with planted("the norm's statistics have no gradient", "torch") as case:
        found = sides("torch", against)
        assert first_difference.forward(found, case, tolerance.PART_64) is None
        parting = first_difference.backward(found, case)
    assert parting.tensor == "gradient of model.layers.1.mlp.down_proj.weight"


def values_detached(inside):
    def attention(original):
        return lambda q, k, v, *rest: original(q, k, inside.detached(v), *rest)

    inside.table("attention", attention)


def activation_detached(inside):
    inside.activation("silu", lambda f: lambda x: inside.detached(f["silu"](x)))


def loss_half_as_large_again(inside):
    inside.table("next_token", lambda original: lambda *given: original(*given) * 1.5)


@BACKENDS
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (values_detached, "gradient of model.layers.1.self_attn.v_proj.weight"),
        (activation_detached, "gradient of model.layers.1.mlp.gate_proj.weight"),
        (loss_half_as_large_again, "loss"),
    ],
)
def test_what_the_way_back_meets_first_is_named(sides, backend, precision, fault, named):
    found, case = sides(backend), case_named("default/hot")
    assert first_difference.backward(found, case, precision) is None
    with ExitStack() as stack:
        fault(Inside(backend, stack))
        found.subject.forget()
        parting = first_difference.backward(found, case, precision)
    assert parting.tensor == named
    assert parting.error > 0.1


def test_the_way_back_goes_through_the_forward_pass_in_reverse(sides):
    case = case_named("default/hot")
    names = first_difference.reached(sides("torch"), case, list_parameters(case.spec))
    short = [name.removeprefix("model.").removesuffix(".weight") for name in names]
    assert short[:3] == ["lm_head", "norm", "layers.1.mlp.down_proj"]
    assert short[-3:] == ["layers.0.self_attn.q_proj", "layers.0.input_layernorm", "embed_tokens"]


def test_a_backend_of_another_make_has_no_taps(sides):
    side = sides("torch").oracle.__class__(sides("torch").oracle.backend)
    side.name = "another"
    with pytest.raises(Unsupported, match=r"there is no hermes_another\.model"):
        trace(side, case_named("default/hot"))


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """Makes a backend of somebody else's, laid out as a column is: a copy of it, renamed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made = []

    def make(column, changes=()):
        name = f"hermes_mine_{column}"
        origin = Path(import_module(f"hermes_{column}").__file__).parent
        shutil.copytree(origin, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        for file in (tmp_path / name).glob("*.py"):
            text = file.read_text(encoding="utf-8").replace(f"hermes_{column}", name)
            text = text.replace(f'name = "{column}"', f'name = "mine_{column}"')
            for old, new in changes:
                text = text.replace(old, new)
            file.write_text(text, encoding="utf-8")
        made.append(name)
        return BackendUnderTest(import_module(f"{name}.backend").BACKEND)

    yield make
    for module in [m for m in sys.modules if m.split(".")[0] in made]:
        del sys.modules[module]


@pytest.mark.parametrize("column", ["torch", "mlx", "numpy"])
def test_a_backend_laid_out_as_a_column_is_walked(sides, stranger, column):
    side, reference = stranger(column), sides("mlx", "torch").reference
    found, case = Sides(side, reference, reference), case_named("default/hot")
    assert first_difference.forward(found, case, tolerance.PART_64) is None
    names = [record.name for record in trace(side, case)]
    assert names == [record.name for record in trace(reference, case)]
    with ExitStack() as stack:
        ops = import_module(f"hermes_mine_{column}.model")
        Inside(side.name, stack).wrap(ops.Norm, call(column), doubled)
        parting = first_difference.forward(found, case, tolerance.PART_64)
    assert parting.tensor == "layers.0.input_layernorm"


def call(column):
    return "forward" if column == "torch" else "__call__"


def doubled(original):
    return lambda self, x: 2 * original(self, x)


def test_what_a_backend_lacks_to_be_walked_is_named(stranger):
    case = case_named("default/hot")
    other = stranger("numpy", [("FeedForward", "Mixer")])
    with pytest.raises(
        Unsupported, match=r"hermes_mine_numpy\.model has no FeedForward; see specs"
    ):
        trace(other, case)
    with ExitStack() as stack:
        side = stranger("mlx")
        runtime = import_module("hermes_mine_mlx.runtime")
        for table in ("EXACT", "FAST", "PLAIN"):
            Inside("mine_mlx", stack).replace(runtime, table, None)
        with pytest.raises(
            Unsupported, match=r"no EXACT or FAST or PLAIN of hermes_mine_mlx\.runtime"
        ):
            trace(side, case)
