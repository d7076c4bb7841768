"""RoPE in config.json, read and written in the old form and the new one.

Old: rope_theta and rope_scaling, for Gemma 3 also rope_local_base_freq. New, from transformers 5:
rope_parameters, which holds all of it, with a dict for each type of layer where types differ. Both
are written; a file that has both must not contradict itself.
"""

import math
from typing import Any

from hermes.errors import SpecError
from hermes.interop.huggingface.families import list_positions, list_windows
from hermes.interop.huggingface.fields import Fields
from hermes.spec import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ModelSpec,
    Rope,
    Scaling,
    YarnScaling,
)

__all__ = ["read_gemma3_ropes", "read_rope", "write_rope"]

Config = dict[str, Any]

# Gemma 3's rope_local_base_freq where no layer has a window, so that no layer uses it.
UNUSED_THETA = 10_000.0


def write_rope(spec: ModelSpec, family: str) -> Config:
    """Write both forms: rope_theta with rope_scaling for old readers, rope_parameters for new."""
    layers = list(zip(list_positions(spec), list_windows(spec), strict=True))
    two = family == "gemma3_text"
    full = next((r for r, w in layers if w is None or not two), layers[0][0])
    assert isinstance(full, Rope)
    scaling = _write_scaling(full)
    parameters = {"rope_theta": float(full.theta), **(scaling or {"rope_type": "default"})}
    if family == "olmo2" and isinstance(full.scaling, LinearScaling):
        # OLMo 2's class in transformers 4 accepts exactly these two fields.
        scaling = {"type": "linear", "factor": float(full.scaling.factor)}
    fields: Config = {
        "rope_theta": float(full.theta),
        "rope_scaling": scaling,
        "rope_parameters": parameters,
    }
    if family == "gpt_neox":
        share = _compute_share(full, spec.attentions[0].head_size)
        parameters["partial_rotary_factor"] = share
        names = {"rotary_pct": share, "rotary_emb_base": float(full.theta)}
        fields |= names | {"partial_rotary_factor": share}
    if two:
        local = next((r for r, w in layers if w is not None), Rope(UNUSED_THETA))
        assert isinstance(local, Rope)
        near = {"rope_type": "default", "rope_theta": float(local.theta)}
        fields["rope_local_base_freq"] = float(local.theta)
        fields["rope_parameters"] = {"full_attention": parameters, "sliding_attention": near}
    return fields


def _compute_share(rope: Rope, size: int) -> float:
    """Compute the rotated share of a head, such that readers' int(size * share) is exact."""
    turning = rope.rotary_dim or size
    share = turning / size
    return share if int(size * share) == turning else math.nextafter(share, 2.0)


def _write_scaling(rope: Rope) -> Config | None:
    match rope.scaling:
        case None:
            return None
        case LinearScaling(factor):
            return {"rope_type": "linear", "factor": float(factor)}
        case Llama3Scaling(factor, low, high, original):
            return {
                "rope_type": "llama3",
                "factor": float(factor),
                "low_freq_factor": float(low),
                "high_freq_factor": float(high),
                "original_max_position_embeddings": original,
            }
        case YarnScaling(factor, original, fast, slow):
            # attention_factor is left out: only then do all readers use the usual one.
            return {
                "rope_type": "yarn",
                "factor": float(factor),
                "original_max_position_embeddings": original,
                "beta_fast": float(fast),
                "beta_slow": float(slow),
            }
        case LongRopeScaling() | DynamicScaling():
            raise AssertionError("find_family gives no class to a model that scales rope so")


def read_rope(
    fields: Fields, *, length: int, size: int, theta: float = 10_000.0, share: float | None = None
) -> Rope:
    """Read the RoPE that all layers share. theta, share: defaults.

    share: the share of a head that is rotated; None where the class always rotates all of it.
    """
    old_theta, old_scaling = fields.take_number("rope_theta"), fields.take_object("rope_scaling")
    share = _read_share(fields, share)
    new = fields.take_object("rope_parameters")
    base = theta if old_theta is None else old_theta
    old = _read_one(old_scaling, "rope_scaling.", length, size, base, share)
    if not new:
        return old
    rope = _read_one(new, "rope_parameters.", length, size, base, share)
    _require_agreement(rope.theta, rope.theta if old_theta is None else old_theta)
    _require_agreement(rope.scaling, old.scaling if old_scaling else rope.scaling)
    return rope


def read_gemma3_ropes(fields: Fields, *, length: int, size: int) -> tuple[Rope, Rope]:
    """Read Gemma 3's two: of layers with full attention, and of those with a window."""
    new = fields.take_object("rope_parameters")
    if new.keys() - {"full_attention", "sliding_attention"}:
        fields.refuse("rope_parameters", new)
    full = {
        "rope_theta": fields.take_number("rope_theta"),
        "rope_scaling": fields.take_object("rope_scaling"),
        "rope_parameters": new.get("full_attention"),
    }
    sliding = {
        "rope_theta": fields.take_number("rope_local_base_freq"),
        "rope_parameters": new.get("sliding_attention"),
    }
    return (
        read_rope(Fields(full), length=length, size=size, theta=1_000_000.0),
        read_rope(Fields(sliding), length=length, size=size, theta=10_000.0),
    )


def _read_share(fields: Fields, share: float | None) -> float | None:
    given = fields.take_number("partial_rotary_factor")
    if given is None:
        return share
    if not 0 < given <= 1 or (share is None and given != 1):
        fields.refuse("partial_rotary_factor", given)
    return None if share is None else given


def _require_agreement(new: object, old: object) -> None:
    if new != old:
        raise SpecError(
            f"config.json: 'rope_parameters' says {new} and the older rope fields say {old}; "
            "remove the one that is wrong",
            ("rope_parameters",),
        )


def _read_one(
    values: Config, name: str, length: int, size: int, theta: float, share: float | None
) -> Rope:
    fields = Fields(values, name)
    own, part = fields.take_number("rope_theta"), _read_share(fields, share)
    turning = size if part is None else int(size * part)
    kind = fields.take_text("type", "default")
    kind = fields.take_text("rope_type", kind)
    scaling: Scaling | None = None
    match kind:
        case "default":
            pass
        case "linear":
            scaling = LinearScaling(_require_number(fields, "factor"))
        case "llama3":
            scaling = Llama3Scaling(
                factor=_require_number(fields, "factor"),
                low_freq_factor=_require_number(fields, "low_freq_factor"),
                high_freq_factor=_require_number(fields, "high_freq_factor"),
                original_max_seq_len=fields.take_size("original_max_position_embeddings", length),
            )
        case "yarn":
            scaling = _read_yarn(fields, length)
        case _:
            fields.refuse("rope_type", kind)
    fields.finish()
    return Rope(theta if own is None else own, scaling, None if turning == size else turning)


def _require_number(fields: Fields, name: str) -> float:
    value = fields.take_number(name)
    if value is None:
        fields.refuse(name, value)
    return value


def _read_yarn(fields: Fields, length: int) -> YarnScaling:
    scaling = YarnScaling(
        factor=_require_number(fields, "factor"),
        original_max_seq_len=fields.take_size("original_max_position_embeddings", length),
        beta_fast=fields.take_number("beta_fast") or 32.0,
        beta_slow=fields.take_number("beta_slow") or 1.0,
    )
    fields.allow_only("truncate", True)
    usual = _compute_magnitude(scaling.factor, 1.0)
    given = fields.take_number("attention_factor")
    if given is not None and not math.isclose(given, usual, rel_tol=1e-6):
        fields.refuse("attention_factor", given)
    above, below = fields.take_number("mscale"), fields.take_number("mscale_all_dim")
    if given is None and above and below:
        ratio = _compute_magnitude(scaling.factor, above) / _compute_magnitude(
            scaling.factor, below
        )
        if not math.isclose(ratio, usual, rel_tol=1e-6):
            fields.refuse("mscale_all_dim", below)
    return scaling


def _compute_magnitude(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
