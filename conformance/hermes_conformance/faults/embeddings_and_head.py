"""Faults of the forward pass: embeddings, the final norm and the head."""

from dataclasses import replace

from hermes.spec import NoNorm
from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import Function, Patcher


def _skip_final_norm(patcher: Patcher) -> None:
    patcher.wrap_forward("Stack", _call_without_norm)


def _call_without_norm(original):
    def faulty(self, tokens, ctx):
        saved, self.norm.norm = self.norm.norm, NoNorm()
        try:
            return original(self, tokens, ctx)
        finally:
            self.norm.norm = saved

    return faulty


def _change_head(change: Function) -> Plant:
    """Build the head, and change(head) it."""

    def plant(patcher: Patcher) -> None:
        def wrap(original):
            def faulty(self, *arguments):
                original(self, *arguments)
                change(self)

            return faulty

        patcher.wrap_method("model", "Head", "__init__", wrap)

    return plant


def _forget_scale(head):
    head.scale = None


def _scale_after_cap(patcher: Patcher) -> None:
    def wrap(original):
        def faulty(self, x, weight, bias):
            scale, self.scale = self.scale, None
            try:
                return original(self, x, weight, bias) * scale
            finally:
                self.scale = scale

        return faulty

    patcher.wrap_method("model", "Head", "project", wrap)


def _round_head(patcher: Patcher) -> None:
    patcher.wrap_forward(
        "Head",
        lambda original: lambda self, x, w: patcher.round_to(original(self, x, w), "float32"),
    )


def drop_bias(part: str | None) -> Plant:
    """Ignore the bias of a part of attention, or the head's for None."""

    def plant(patcher: Patcher) -> None:
        def wrap(original):
            def faulty(self, *arguments):
                owner = self if part is None else getattr(self, part)
                saved, owner.bias = owner.bias, None
                try:
                    return original(self, *arguments)
                finally:
                    owner.bias = saved

            return faulty

        patcher.wrap_forward("Head" if part is None else "Attention", wrap)

    return plant


def _ignore_embedding_scale(patcher: Patcher) -> None:
    def wrap(original):
        def faulty(self, tokens, ctx):
            saved, self.spec = self.spec, replace(self.spec, scale=None)
            try:
                return original(self, tokens, ctx)
            finally:
                self.spec = saved

        return faulty

    patcher.wrap_forward("Stack", wrap)


def _ignore_embedding_norm(patcher: Patcher) -> None:
    patcher.wrap_forward("Stack", _call_without_embedding_norm)


def _call_without_embedding_norm(original):
    def faulty(self, tokens, ctx):
        saved, self.embed_norm = self.embed_norm, None
        try:
            return original(self, tokens, ctx)
        finally:
            self.embed_norm = saved

    return faulty


def _norm_after_positions(patcher: Patcher) -> None:
    """The norm of embeddings applies to their sum with learned positions."""

    def wrap_stack(original):
        def faulty(self, tokens, ctx):
            saved, self.embed_norm = self.embed_norm, None
            dropout, type(ctx).dropout = type(ctx).dropout, _norm_first(type(ctx).dropout, saved)
            try:
                return original(self, tokens, ctx)
            finally:
                type(ctx).dropout, self.embed_norm = dropout, saved

        return faulty

    patcher.wrap_forward("Stack", wrap_stack)


def _norm_first(dropout, norm):
    return lambda self, x, rate, site: dropout(self, x if site else norm(x), rate, site)


def _make_fault(name: str, case: str, plant: Plant, law: str = "L1/logits") -> Fault:
    return Fault(name, "forward", law, case, plant)


DEFAULT = "default/hot"

FAULTS = (
    _make_fault(
        "output's softcap is ignored",
        "output.softcap=5/hot",
        lambda patcher: patcher.wrap_table("soft_cap", lambda original: lambda x, cap: x),
    ),
    _make_fault("output's scale is ignored", "output.scale=0.3/hot", _change_head(_forget_scale)),
    _make_fault(
        "output's scale comes after its cap", "output.scale=3/capped/hot", _scale_after_cap
    ),
    _make_fault(
        "the embeddings' norm is ignored", "embeddings.norm=rmsnorm/hot", _ignore_embedding_norm
    ),
    _make_fault(
        "the embeddings' norm comes after positions",
        "embeddings.norm=layernorm/hot",
        _norm_after_positions,
    ),
    _make_fault("no final norm", DEFAULT, _skip_final_norm),
    _make_fault("the head computes in float32", DEFAULT, _round_head),
    _make_fault("the head's bias is ignored", "output.bias=true/hot", drop_bias(None)),
    _make_fault(
        "the embeddings' scale is ignored", "embeddings.scale=4.9/hot", _ignore_embedding_scale
    ),
)
