"""RoPE in config.json, read and written in the old form and the new one.

Old: rope_theta and rope_scaling, for Gemma 3 also rope_local_base_freq. New, from transformers 5:
rope_parameters, which holds all of it, with a dict for each type of layer where types differ. Both
are written; a file that has both must not contradict itself.
"""

import math
from dataclasses import dataclass

from hermes.errors import SpecError
from hermes.interop.huggingface.draft import Draft, View
from hermes.interop.huggingface.fields import Fields
from hermes.interop.huggingface.parts import Config, Unfit
from hermes.spec import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    NoPositions,
    Rope,
    Scaling,
    YarnScaling,
)

__all__ = ["RopeOf", "TwoRopes"]

# A theta for layers that a model does not have, and so never used.
UNUSED_THETA = 10_000.0


@dataclass(frozen=True)
class RopeOf:
    """RoPE, the same in all layers that have positions.

    theta: the class's default. share: of a head that is rotated, where the class has a field for
    it, its default; None where it rotates all. old_theta, old_share: names that older fields have.
    old_linear: whether rope_scaling is written as `type` and `factor` alone where it is linear.
    longrope: whether every release of the class computes it.
    """

    theta: float = 10_000.0
    share: float | None = None
    old_theta: str = ""
    old_share: str = ""
    old_linear: bool = False
    longrope: bool = False

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read it from the old fields and the new, which must agree."""
        base = fields.take_number(self.old_theta) if self.old_theta else None
        part = fields.take_number(self.old_share) if self.old_share else None
        if part is not None and not 0 < part <= 1:
            fields.refuse(self.old_share, part)
        rope = read_rope(
            fields,
            length=draft["max_seq_len"],
            size=draft.head_size,
            theta=self.theta if base is None else base,
            share=self.share if part is None else part,
        )
        if base is not None and base != rope.theta:
            fields.refuse(self.old_theta, base)
        turning = rope.rotary_dim or draft.head_size
        if part is not None and int(part * draft.head_size) != turning:
            fields.refuse(self.old_share, part)
        draft.positions = [rope] * draft["num_layers"]

    def write(self, view: View) -> Config:
        """Write both forms: rope_theta with rope_scaling, and rope_parameters."""
        rope = view.rope
        if rope is None and not all(isinstance(one, NoPositions) for one in view.positions):
            raise Unfit("positions are not rope")
        rope = rope or Rope(self.theta)
        if isinstance(rope.scaling, LongRopeScaling) and not self.longrope:
            raise Unfit("rope is scaled by longrope")
        scaling = _write_scaling(rope)
        parameters = {"rope_theta": float(rope.theta), **(scaling or {"rope_type": "default"})}
        if self.old_linear and isinstance(rope.scaling, LinearScaling):
            scaling = {"type": "linear", "factor": float(rope.scaling.factor)}
        config: Config = {
            "rope_theta": float(rope.theta),
            "rope_scaling": scaling,
            "rope_parameters": parameters,
        }
        if self.share is not None:
            share = _compute_share(rope, view.block.attention.head_size)
            parameters["partial_rotary_factor"] = config["partial_rotary_factor"] = share
            if self.old_share:
                config[self.old_share] = share
        if self.old_theta:
            config[self.old_theta] = float(rope.theta)
        return config


@dataclass(frozen=True)
class TwoRopes:
    """One RoPE for layers with full attention, and an unscaled one for those with a window.

    theta, near: the class's default thetas; near is None where both kinds have one theta. near_name
    is the older field of the second.
    """

    theta: float
    near: float | None = None
    near_name: str = ""

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read both; the windows must have been read."""
        new = fields.take_object("rope_parameters")
        types = {"full_attention", "sliding_attention"}
        if new.keys() - types:
            fields.refuse("rope_parameters", new)
        theta = fields.take_number("rope_theta")
        length, size = draft["max_seq_len"], draft.head_size
        full = read_rope(
            fields.open_nested(
                {
                    "rope_theta": theta,
                    "rope_scaling": fields.take_object("rope_scaling"),
                    "rope_parameters": new.get("full_attention"),
                },
                "",
            ),
            length=length,
            size=size,
            theta=self.theta,
        )
        old = fields.take_number(self.near_name) if self.near_name else theta
        near = read_rope(
            fields.open_nested(
                {"rope_theta": old, "rope_parameters": new.get("sliding_attention")}, ""
            ),
            length=length,
            size=size,
            theta=full.theta if self.near is None else self.near,
        )
        draft.positions = [full if window is None else near for window in draft.windows]

    def write(self, view: View) -> Config:
        """Write both forms."""
        layers = list(zip(view.positions, view.windows, strict=True))
        full = next((rope for rope, window in layers if window is None), None)
        near = next((rope for rope, window in layers if window is not None), None)
        full = full or near
        if near is None and isinstance(full, Rope):
            near = Rope(full.theta if self.near is None else UNUSED_THETA)
        if not isinstance(full, Rope) or not isinstance(near, Rope) or near.scaling is not None:
            raise Unfit("positions are not rope, or scaled where there is a window")
        if isinstance(full.scaling, LongRopeScaling):
            raise Unfit("rope is scaled by longrope")
        scaling = _write_scaling(full)
        config: Config = {
            "rope_theta": float(full.theta),
            "rope_scaling": scaling,
            "rope_parameters": {
                "full_attention": {
                    "rope_theta": float(full.theta),
                    **(scaling or {"rope_type": "default"}),
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": float(near.theta)},
            },
        }
        if self.near_name:
            config[self.near_name] = float(near.theta)
        return config


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
