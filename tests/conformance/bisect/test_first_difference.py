"""Bisection names the first tensor that differs, and says where in it."""

from contextlib import ExitStack

import pytest

from hermes.numerics.params import list_parameters
from hermes_conformance.bisect.activations import trace
from hermes_conformance.bisect.computations import DECODING, DROPOUT, FORWARD
from hermes_conformance.bisect.first_difference import (
    compare_backward,
    compare_forward,
    list_computations,
    order_backward,
)
from hermes_conformance.faults.patcher import Patcher
from hermes_conformance.measure.subject import Backends
from hermes_conformance.measure.tolerance import BISECT_32, BISECT_64, BISECT_BF16
from tests.conformance.support import find_case, plant

BACKENDS = pytest.mark.parametrize("backend", ["torch", "mlx"])


def bisect_with_fault(backends, fault, backend, computation=FORWARD, against="numpy"):
    """The first difference of a forward pass while the fault is planted."""
    with plant(fault, backend) as planted:
        case = find_case(planted.case)
        return compare_forward(backends(backend, against), case, BISECT_64, computation=computation)


@BACKENDS
def test_a_good_backend_differs_nowhere(backends, backend):
    found, case = backends(backend), find_case("model.pattern/hot")
    assert compare_forward(found, case, BISECT_64) is None
    assert compare_forward(found, case, BISECT_32, "float32") is None
    assert compare_forward(found, case, BISECT_BF16, "bfloat16") is None
    assert compare_backward(found, case) is None


@BACKENDS
@pytest.mark.parametrize(
    "computation", [FORWARD, DECODING, DROPOUT], ids=lambda computation: computation.name
)
def test_a_good_backend_differs_in_no_computation(backends, backend, computation):
    found, case = backends(backend), find_case("every dropout/hot")
    assert computation in list_computations(found, case)
    assert compare_forward(found, case, BISECT_64, computation=computation) is None
    assert compare_forward(found, case, BISECT_BF16, "bfloat16", computation) is None
    names = [record.name for record in trace(found.subject, case, computation=computation)]
    assert ("micro-batch 1: layers.0: after dropout at site 3" in names) == (computation is DROPOUT)
    assert ("read 5 of 5, from token 9: lm_head" in names) == (computation is DECODING)


@BACKENDS
@pytest.mark.parametrize(
    ("fault", "computation", "named"),
    [
        (
            "single steps write the first row's keys",
            DECODING,
            "read 3 of 5, from token 7: layers.0.self_attn: k read by attention, row 1, head 0, "
            "position 7",
        ),
        (
            "layers share a cache",
            DECODING,
            "read 2 of 5, from token 5: layers.0.self_attn: k read by attention, row 0, head",
        ),
        (
            "layers share their masks",
            DROPOUT,
            "micro-batch 0: layers.0: after dropout at site 4, row 0, position 1",
        ),
        (
            "masks begin anew in each micro-batch",
            DROPOUT,
            "micro-batch 1: model: after dropout at site 0, row 0, position 5",
        ),
        (
            "dropout drops nothing",
            DROPOUT,
            "micro-batch 0: layers.0.input_layernorm where micro-batch 0: model: after dropout at "
            "site 0 was due",
        ),
    ],
)
def test_a_fault_of_the_cache_or_of_dropout_is_named(backends, backend, fault, computation, named):
    assert bisect_with_fault(backends, fault, backend) is None
    difference = bisect_with_fault(backends, fault, backend, computation)
    assert str(difference).startswith(named)


@BACKENDS
@pytest.mark.parametrize("name", ["crossed.015/hot", "crossed.018/hot"])
def test_keys_that_no_query_attends_to_are_not_compared(backends, backend, name):
    found, case = backends(backend), find_case(name)
    windows = [attention.window_size for attention in case.spec.attentions]
    assert any(window is not None and window < case.T for window in windows)
    assert compare_forward(found, case, BISECT_64, computation=DECODING) is None


def test_the_computations_are_those_that_the_case_has(backends):
    found = backends("torch")
    assert list_computations(found, find_case("default/hot")) == (FORWARD, DECODING)
    assert list_computations(found, find_case("attention.mask=both/hot")) == (FORWARD,)
    dropping = find_case("every dropout/hot")
    assert list_computations(found, dropping) == (FORWARD, DROPOUT, DECODING)
    oracle = Backends(found.oracle, found.subject, found.oracle)
    assert list_computations(oracle, dropping) == (FORWARD, DECODING)


@BACKENDS
def test_a_fault_is_named_in_bfloat16_too(backends, backend):
    with plant("rope turns no keys", backend) as fault:
        case = find_case(fault.case)
        difference = compare_forward(backends(backend), case, BISECT_BF16, "bfloat16")
    assert difference.tensor == "layers.0.self_attn: k after rope"


@BACKENDS
def test_a_fault_of_a_joined_product_is_named(backends, backend):
    def wrap(project):
        def faulty(x, *linears):
            first, *others = project(x, *linears)
            return first, *(2 * y for y in others)

        return faulty

    found, case = backends(backend), find_case("default/hot")
    assert compare_forward(found, case, BISECT_32, "float32") is None
    with ExitStack() as stack:
        Patcher(backend, stack).wrap_table("project", wrap)
        found.subject.forget()
        difference = compare_forward(found, case, BISECT_32, "float32")
    assert difference.tensor == "layers.0.self_attn.k_proj"


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
def test_the_first_tensor_that_differs_is_named(backends, backend, fault, named):
    difference = bisect_with_fault(backends, fault, backend)
    assert str(difference).startswith(named)
    assert "relative error" in str(difference)


@BACKENDS
def test_a_pass_through_other_modules_is_named(backends, backend):
    difference = bisect_with_fault(backends, "the second norm is the first one again", backend)
    assert str(difference) == (
        "layers.0.input_layernorm where layers.0.post_attention_layernorm was due"
    )


@pytest.mark.parametrize("against", ["numpy", "mlx"])
def test_the_gradient_nearest_to_the_output_that_differs_is_named(backends, against):
    with plant("the norm's statistics have no gradient", "torch") as fault:
        found, case = backends("torch", against), find_case(fault.case)
        assert compare_forward(found, case, BISECT_64) is None
        difference = compare_backward(found, case)
    assert difference.tensor == "gradient of model.layers.1.mlp.down_proj.weight"


def detach_values(patcher):
    def wrap(attention):
        return lambda q, k, v, *rest: attention(q, k, patcher.detach(v), *rest)

    patcher.wrap_table("attention", wrap)


def detach_activation(patcher):
    patcher.wrap_activation("silu", lambda f: lambda x: patcher.detach(f["silu"](x)))


def scale_loss(patcher):
    patcher.wrap_table("next_token", lambda original: lambda *args: original(*args) * 1.5)


@BACKENDS
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (detach_values, "gradient of model.layers.1.self_attn.v_proj.weight"),
        (detach_activation, "gradient of model.layers.1.mlp.gate_proj.weight"),
        (scale_loss, "loss"),
    ],
)
def test_a_fault_of_the_loss_or_the_backward_pass_is_named(
    backends, backend, precision, fault, named
):
    found, case = backends(backend), find_case("default/hot")
    assert compare_backward(found, case, precision) is None
    with ExitStack() as stack:
        fault(Patcher(backend, stack))
        found.subject.forget()
        difference = compare_backward(found, case, precision)
    assert difference.tensor == named
    assert difference.error > 0.1


def test_the_backward_pass_is_the_forward_pass_in_reverse(backends):
    case = find_case("default/hot")
    names = order_backward(backends("torch"), case, list_parameters(case.spec))
    short = [name.removeprefix("model.").removesuffix(".weight") for name in names]
    assert short[:3] == ["lm_head", "norm", "layers.1.mlp.down_proj"]
    assert short[-3:] == ["layers.0.self_attn.q_proj", "layers.0.input_layernorm", "embed_tokens"]
