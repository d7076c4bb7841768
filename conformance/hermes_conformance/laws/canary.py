"""Before a float64 level: is this backend's float64 one?

A float64 whose exponential is float32 inside passes every law that only compares it with itself.
So the elementary functions are asked for by name, through models so small that the right answer is
written out here.
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
WRONG_FORMULA = 1e-4
INPUTS = IDS - 2.0  # what the network sees for each id: -2 .. 3


def _spec(activation: str = "relu", norm: Norm = PLAIN, heads: int = 1) -> ModelSpec:
    """One layer of width 2; without residual, so that what the layer computes is all there is."""
    attention = AttentionSpec(heads, head_dim=2, position_encoding=NoPositions(), scale=1.0)
    block = BlockSpec(attention, FfnSpec(2, activation), norm, residual=False)
    return ModelSpec(
        blocks=(block,), vocab_size=len(IDS), max_seq_len=8, hidden_size=2, num_layers=1
    )


def _weights(spec: ModelSpec, **given) -> dict[str, np.ndarray]:
    made = {name: np.zeros(t.shape, np.float32) for name, t in list_parameters(spec).items()}
    first = "model.layers.0."
    identity = np.eye(2, dtype=np.float32)
    for name in ("self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
        made[f"{first}{name}.weight"] = identity.copy()
    made["model.embed_tokens.weight"] = np.stack([INPUTS, np.ones(6)], 1).astype(np.float32)
    made["lm_head.weight"] = np.zeros((6, 2), np.float32)
    made["lm_head.weight"][:, 0] = 1.0
    for name, value in given.items():
        made[first + name.replace("__", ".") + ".weight"] = np.asarray(value, np.float32)
    return made


def _activation(side: BackendUnderTest, name: str) -> np.ndarray:
    """The function at INPUTS: each id alone in its row attends to itself only."""
    spec = _spec(name)
    model = side.backend.build(spec, _weights(spec), side.options())
    return model.logits(IDS[:, None].astype(np.int32))[:, 0, 0]


def _attended(side: BackendUnderTest) -> np.ndarray:
    """softmax at integer scores, as the mean that two tokens give the second of them."""
    spec = _spec()
    turned = _weights(spec, self_attn__q_proj=np.eye(2), self_attn__k_proj=np.eye(2))
    model = side.backend.build(spec, turned, side.options())
    rows = np.array([[i, 5] for i in IDS], np.int32)
    return model.logits(rows)[:, 1, 0]


def _expected_attended() -> np.ndarray:
    means = []
    for x in INPUTS:
        a, b = math.exp(3 * x + 1), math.exp(3 * 3.0 + 1)
        means.append(max(0.0, (a * x + b * 3.0) / (a + b)))
    return np.array(means)


def _logprobs(side: BackendUnderTest) -> np.ndarray:
    """log softmax of logits 0, 10, 20, 30, 40, 50 at the first; normed inputs check the norm."""
    spec = _spec(norm=RMSNorm(0.5))
    weights = _weights(spec)
    for name in weights:
        if name.endswith("norm.weight"):
            weights[name] = np.ones(2, np.float32)
    weights["lm_head.weight"][:, 0] = np.arange(6.0)
    model = side.backend.build(spec, weights, side.options())
    return model.logprobs(IDS[:, None].astype(np.int32), np.zeros((6, 1), np.int32))[:, 0]


def _expected_logprobs() -> np.ndarray:
    def norm(x, y):
        root = math.sqrt((x * x + y * y) / 2 + 0.5)
        return x / root, y / root

    made = []
    for x in INPUTS:
        a = norm(x, 1.0)
        b = norm(*a)
        z, _ = norm(max(b[0], 0.0), max(b[1], 0.0))
        scores = [z * k for k in range(6)]
        top = max(scores)
        made.append(scores[0] - top - math.log(math.fsum(math.exp(s - top) for s in scores)))
    return np.array(made)


def canaries(side: BackendUnderTest) -> dict[str, float]:
    """Worst relative error of each elementary function of a float64 model that is not declined."""
    silu = [x / (1 + math.exp(-x)) for x in INPUTS]
    gelu = [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in INPUTS]
    root = math.sqrt(2 / math.pi)
    tanh = [x * (1 + math.tanh(root * (x + 0.044715 * x**3))) / 2 for x in INPUTS]
    asked: dict[str, tuple[Callable[[], np.ndarray], ArrayLike]] = {
        "exp in silu": (lambda: _activation(side, "silu"), silu),
        "erf in gelu": (lambda: _activation(side, "gelu"), gelu),
        "tanh in gelu_tanh": (lambda: _activation(side, "gelu_tanh"), tanh),
        "softmax": (lambda: _attended(side), _expected_attended()),
        "norms and log-sum-exp": (lambda: _logprobs(side), _expected_logprobs()),
    }
    errors = {}
    for name, (ask, right) in asked.items():
        with contextlib.suppress(Unsupported):
            errors[name] = float(np.max(np.abs(ask() - np.array(right))) / np.max(np.abs(right)))
    return errors


def refusal(side: BackendUnderTest) -> str | None:
    """Why a float64 level cannot be run on this side, in one sentence; None if it can.

    An error far above float32's is a wrong formula, which the laws name better.
    """
    graded = {name: e for name, e in canaries(side).items() if e < WRONG_FORMULA}
    worst, name = max(((error, name) for name, error in graded.items()), default=(0.0, ""))
    if worst <= tolerance.CANARY_64.limit:
        return None
    return (
        f"the float64 of {side.name} is not one: {name} is off by {worst:.0e}, "
        f"where {tolerance.CANARY_64.limit:.0e} is allowed; the level would prove nothing"
    )
