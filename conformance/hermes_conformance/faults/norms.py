"""Faults of the forward pass: norms."""

from dataclasses import replace

from hermes.spec import LayerNorm, NoNorm, RMSNorm
from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import Function, Patcher


def _change_norm(change: Function) -> Plant:
    """Call the norm with the arguments that change(x, norm, weight, bias) gives."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_table("normalize", lambda normalize: lambda *args: normalize(*change(*args)))

    return plant


def _scale_eps(factor):
    return _change_norm(
        lambda x, norm, w, b: (
            x,
            replace(norm, eps=factor * norm.eps) if hasattr(norm, "eps") else norm,
            w,
            b,
        )
    )


def _move_eps_outside(patcher: Patcher) -> None:
    def wrap(normalize):
        def faulty(x, norm, weight, bias):
            if not isinstance(norm, RMSNorm):
                return normalize(x, norm, weight, bias)
            scale = 1 + weight if norm.unit_offset else weight
            return x / ((x * x).mean(-1)[..., None] ** 0.5 + norm.eps) * scale

        return faulty

    patcher.wrap_table("normalize", wrap)


def _use_unbiased_variance(patcher: Patcher) -> None:
    def wrap(normalize):
        def faulty(x, norm, weight, bias):
            if not isinstance(norm, LayerNorm):
                return normalize(x, norm, weight, bias)
            y = normalize(x, replace(norm, bias=False), weight, None)
            y = y * ((x.shape[-1] - 1) / x.shape[-1]) ** 0.5
            return y + bias if norm.bias else y

        return faulty

    patcher.wrap_table("normalize", wrap)


def _change_final_eps(patcher: Patcher) -> None:
    def wrap(original):
        def faulty(self, *arguments):
            original(self, *arguments)
            self.norm.norm = replace(self.norm.norm, eps=1e-6)

        return faulty

    patcher.wrap_method("model", "Stack", "__init__", wrap)


def _make_fault(name: str, case: str, plant: Plant, law: str = "L1/logits") -> Fault:
    return Fault(name, "forward", law, case, plant)


DEFAULT = "default/hot"
QUIET = "default/fresh"

FAULTS = (
    _make_fault("norm eps is 1e-6 for 1e-5", QUIET, _scale_eps(0.1)),
    _make_fault("norm eps is 1e-6, by vectors", "golden.llama/hot", _scale_eps(0.1), "L1/golden"),
    _make_fault("norm eps is 1e-6 for 1e-5, loud", DEFAULT, _scale_eps(0.1)),
    _make_fault("norm eps stands outside the root", QUIET, _move_eps_outside),
    _make_fault("the final norm alone has another eps", DEFAULT, _change_final_eps),
    _make_fault(
        "unit_offset is ignored",
        "block.norm=rmsnorm-offset/pre/hot",
        _change_norm(
            lambda x, n, w, b: (
                (x, replace(n, unit_offset=False), w, b) if isinstance(n, RMSNorm) else (x, n, w, b)
            )
        ),
    ),
    _make_fault(
        "unit_offset of a layernorm is ignored",
        "block.norm=layernorm-offset/pre/hot",
        _change_norm(
            lambda x, n, w, b: (
                (x, replace(n, unit_offset=False), w, b)
                if isinstance(n, LayerNorm)
                else (x, n, w, b)
            )
        ),
    ),
    _make_fault(
        "the norm of queries and keys has no bias",
        "attention.qk_norm=head layernorm bias/hot",
        _change_norm(lambda x, n, w, b: (x, n, w, None)),
    ),
    _make_fault(
        "a norm without weight is no norm",
        "block.norm=rmsnorm-noweight/pre/hot",
        _change_norm(lambda x, n, w, b: (x, n if w is not None else NoNorm(), w, b)),
    ),
    _make_fault(
        "a layernorm without weight is an rmsnorm",
        "block.norm=layernorm-noweight/pre/hot",
        _change_norm(lambda x, n, w, b: (x, n if w is not None else RMSNorm(n.eps), w, b)),
    ),
    _make_fault(
        "the norm's weight is ignored",
        DEFAULT,
        _change_norm(lambda x, n, w, b: (x, n, w * 0 + 1, b)),
    ),
    _make_fault(
        "layernorm for rmsnorm",
        DEFAULT,
        _change_norm(lambda x, n, w, b: (x - x.mean(-1)[..., None], n, w, b)),
    ),
    _make_fault(
        "layernorm divides by n - 1", "block.norm=layernorm/pre/hot", _use_unbiased_variance
    ),
)
