"""RoPE in config.json, read and written in the old form and the new one.

Old: rope_theta and rope_scaling, for Gemma 3 also rope_local_base_freq. New, from transformers 5:
rope_parameters, which holds all of it, with a dict for each type of layer where types differ. Both
are written; a file that has both must not contradict itself.
"""

import math
from dataclasses import dataclass

from hermes.interop.huggingface.draft import Draft, View
from hermes.interop.huggingface.fields import Fields
from hermes.interop.huggingface.parts import Config, Unfit
from hermes.interop.huggingface.rope_scaling import read_rope, write_scaling
from hermes.spec import LinearScaling, LongRopeScaling, NoPositions, Rope

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
        scaling = write_scaling(rope)
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
        scaling = write_scaling(full)
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
