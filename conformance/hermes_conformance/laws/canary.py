"""Whether a backend's float64 is one, which is checked before the levels that compute in it.

A float64 whose exponential has float32 accuracy passes all laws that only compare it with itself.
So each elementary function is measured by itself, through a model so small that the right result
is written out here.
"""

import contextlib
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from hermes.errors import Unsupported
from hermes.numerics.params import list_parameters
from hermes.spec import (
    AttentionSpec,
    BlockSpec,
    FfnSpec,
    ModelSpec,
    NoNorm,
    NoPositions,
    Norm,
    RMSNorm,
)
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.subject import BackendUnderTest

IDS = np.arange(6)
PLAIN = NoNorm()
WRONG_FORMULA = 1e-4  # a larger error is no lack of precision
INPUTS = IDS - 2.0  # the network's input for each id: -2 .. 3


def _make_spec(activation: str = "relu", norm: Norm = PLAIN, heads: int = 1) -> ModelSpec:
    """One layer of width 2, without a residual, so that its logits are what the layer computes."""
    attention = AttentionSpec(heads, head_dim=2, position_encoding=NoPositions(), scale=1.0)
    block = BlockSpec(attention, FfnSpec(2, activation), norm, residual=False)
    return ModelSpec(
        blocks=(block,), vocab_size=len(IDS), max_seq_len=8, hidden_size=2, num_layers=1
    )


def _make_weights(spec: ModelSpec, **matrices: ArrayLike) -> dict[str, np.ndarray]:
    """Identity matrices along the path of the values, zeros elsewhere, except `matrices`."""
    weights = {name: np.zeros(t.shape, np.float32) for name, t in list_parameters(spec).items()}
    first = "model.layers.0."
    identity = np.eye(2, dtype=np.float32)
    for name in ("self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
        weights[f"{first}{name}.weight"] = identity.copy()
    weights["model.embed_tokens.weight"] = np.stack([INPUTS, np.ones(6)], 1).astype(np.float32)
    weights["lm_head.weight"] = np.zeros((6, 2), np.float32)
    weights["lm_head.weight"][:, 0] = 1.0
    for name, value in matrices.items():
        weights[first + name.replace("__", ".") + ".weight"] = np.asarray(value, np.float32)
    return weights


def _compute_activation(subject: BackendUnderTest, name: str) -> np.ndarray:
    """The function at INPUTS: each id is alone in its row, so it attends to itself only."""
    spec = _make_spec(name)
    model = subject.backend.build(spec, _make_weights(spec), subject.make_options())
    return model.logits(IDS[:, None].astype(np.int32))[:, 0, 0]


def _compute_softmax(subject: BackendUnderTest) -> np.ndarray:
    """softmax of integer scores, by the mean that attention takes of two tokens' values."""
    spec = _make_spec()
    weights = _make_weights(spec, self_attn__q_proj=np.eye(2), self_attn__k_proj=np.eye(2))
    model = subject.backend.build(spec, weights, subject.make_options())
    rows = np.array([[i, 5] for i in IDS], np.int32)
    return model.logits(rows)[:, 1, 0]


def _expect_softmax() -> np.ndarray:
    means = []
    for x in INPUTS:
        a, b = math.exp(3 * x + 1), math.exp(3 * 3.0 + 1)
        means.append(max(0.0, (a * x + b * 3.0) / (a + b)))
    return np.array(means)


def _compute_logprobs(subject: BackendUnderTest) -> np.ndarray:
    """log p of the first token where logits are 0, z, .. 5z, for a z that three norms have made."""
    spec = _make_spec(norm=RMSNorm(0.5))
    weights = _make_weights(spec)
    for name in weights:
        if name.endswith("norm.weight"):
            weights[name] = np.ones(2, np.float32)
    weights["lm_head.weight"][:, 0] = np.arange(6.0)
    model = subject.backend.build(spec, weights, subject.make_options())
    return model.logprobs(IDS[:, None].astype(np.int32), np.zeros((6, 1), np.int32))[:, 0]


def _expect_logprobs() -> np.ndarray:
    def norm(x: float, y: float) -> tuple[float, float]:
        root = math.sqrt((x * x + y * y) / 2 + 0.5)
        return x / root, y / root

    logprobs = []
    for x in INPUTS:
        a = norm(x, 1.0)
        b = norm(*a)
        z, _ = norm(max(b[0], 0.0), max(b[1], 0.0))
        scores = [z * k for k in range(6)]
        top = max(scores)
        logprobs.append(scores[0] - top - math.log(math.fsum(math.exp(s - top) for s in scores)))
    return np.array(logprobs)


def measure_canaries(subject: BackendUnderTest) -> dict[str, float]:
    """Worst relative error in float64 of each elementary function that the backend has."""
    silu = [x / (1 + math.exp(-x)) for x in INPUTS]
    gelu = [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in INPUTS]
    root = math.sqrt(2 / math.pi)
    tanh = [x * (1 + math.tanh(root * (x + 0.044715 * x**3))) / 2 for x in INPUTS]
    functions: dict[str, tuple[Callable[[], np.ndarray], ArrayLike]] = {
        "exp in silu": (lambda: _compute_activation(subject, "silu"), silu),
        "erf in gelu": (lambda: _compute_activation(subject, "gelu"), gelu),
        "tanh in gelu_tanh": (lambda: _compute_activation(subject, "gelu_tanh"), tanh),
        "softmax": (lambda: _compute_softmax(subject), _expect_softmax()),
        "norms and log-sum-exp": (lambda: _compute_logprobs(subject), _expect_logprobs()),
    }
    errors = {}
    for name, (compute, expected) in functions.items():
        with contextlib.suppress(Unsupported):
            apart = np.max(np.abs(compute() - np.array(expected)))
            errors[name] = float(apart / np.max(np.abs(expected)))
    return errors


def explain_refusal(subject: BackendUnderTest) -> str | None:
    """Why the float64 levels would prove nothing for this backend; None if it has true float64.

    An error far above float32's rounding is a wrong formula, which the laws describe better.
    """
    errors = {name: e for name, e in measure_canaries(subject).items() if e < WRONG_FORMULA}
    worst, name = max(((error, name) for name, error in errors.items()), default=(0.0, ""))
    if worst <= tolerance.CANARY_64.limit:
        return None
    return (
        f"the float64 of {subject.name} is not one: {name} is off by {worst:.0e}, "
        f"where {tolerance.CANARY_64.limit:.0e} is allowed; the level would prove nothing"
    )
