"""The theta, the rotated share and the scaling of RoPE, in one object of config.json or another."""

import math

from hermes.errors import SpecError
from hermes.interop.huggingface.fields import Fields
from hermes.interop.huggingface.parts import Config
from hermes.spec import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rope,
    Scaling,
    YarnScaling,
)

__all__ = ["read_rope", "write_scaling"]


def write_scaling(rope: Rope) -> Config | None:
    """Write the scaling of a RoPE as the newer form has it, None where there is none."""
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
        case YarnScaling(factor, original, fast, slow, magnitude, truncate):
            config: Config = {
                "rope_type": "yarn",
                "factor": float(factor),
                "original_max_position_embeddings": original,
                "beta_fast": float(fast),
                "beta_slow": float(slow),
            }
            # Left out where they are usual: only then do all readers use the usual ones.
            config |= {} if magnitude is None else {"attention_factor": magnitude}
            return config | ({} if truncate else {"truncate": False})
        case LongRopeScaling(short, long, original, magnitude):
            config = {
                "rope_type": "longrope",
                "short_factor": list(short),
                "long_factor": list(long),
                "original_max_position_embeddings": original,
            }
            return config | ({} if magnitude is None else {"attention_factor": magnitude})
        case DynamicScaling(factor):
            # Its class scales beyond max_position_embeddings.
            return {"rope_type": "dynamic", "factor": float(factor)}


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
    old = _read_one(fields, old_scaling, "rope_scaling", length, size, base, share)
    if not new:
        return old
    rope = _read_one(fields, new, "rope_parameters", length, size, base, share)
    _require_agreement(rope.theta, rope.theta if old_theta is None else old_theta)
    _require_agreement(rope.scaling, old.scaling if old_scaling else rope.scaling)
    return rope


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
    outer: Fields,
    values: Config,
    name: str,
    length: int,
    size: int,
    theta: float,
    share: float | None,
) -> Rope:
    fields = outer.open_nested(values, name)
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
        case "longrope" | "su":
            scaling = _read_longrope(fields, length)
        case "dynamic":
            scaling = DynamicScaling(_require_number(fields, "factor"), length)
            # Files of transformers 5 have it; its classes scale beyond max_position_embeddings.
            fields.take("original_max_position_embeddings")
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
    factor = _require_number(fields, "factor")
    fields.allow_only("finetuned", True, False)  # whether it was trained so, which changes nothing
    magnitude = fields.take_number("attention_factor")
    above, below = fields.take_number("mscale"), fields.take_number("mscale_all_dim")
    if magnitude is None and above and below:
        magnitude = _compute_magnitude(factor, above) / _compute_magnitude(factor, below)
    usual = _compute_magnitude(factor, 1.0)
    if magnitude is not None and math.isclose(magnitude, usual, rel_tol=1e-6):
        magnitude = None
    return YarnScaling(
        factor=factor,
        original_max_seq_len=fields.take_size("original_max_position_embeddings", length),
        beta_fast=fields.take_number("beta_fast") or 32.0,
        beta_slow=fields.take_number("beta_slow") or 1.0,
        attention_factor=magnitude,
        truncate=fields.take_flag("truncate", True),
    )


def _read_longrope(fields: Fields, length: int) -> LongRopeScaling:
    original = fields.take_size("original_max_position_embeddings", length)
    magnitude, factor = fields.take_number("attention_factor"), fields.take_number("factor")
    if magnitude is None and factor is not None:
        magnitude = math.sqrt(1 + math.log(max(factor, 1.0)) / math.log(original))
    short, long = (_take_factors(fields, name) for name in ("short_factor", "long_factor"))
    return LongRopeScaling(short, long, original, magnitude)


def _take_factors(fields: Fields, name: str) -> tuple[float, ...]:
    values = fields.take(name)
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        fields.refuse(name, values)
    return tuple(float(value) for value in values)


def _compute_magnitude(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
