"""Parts of families that say positions in fields of their own: see `parts`, and `rope`."""

from dataclasses import dataclass, replace

from hermes.errors import SpecError
from hermes.interop.huggingface.draft import Draft, View
from hermes.interop.huggingface.fields import Fields
from hermes.interop.huggingface.parts import Config, Unfit
from hermes.interop.huggingface.rope import RopeOf
from hermes.spec import Alibi, Rope

__all__ = [
    "AlibiAlways",
    "BaichuanLength",
    "BaichuanPositions",
    "ChatGlmRope",
    "FalconPositions",
    "FixedAlpha",
    "OriginalLength",
    "RotaryDim",
]


@dataclass(frozen=True)
class AlibiAlways:
    """ALiBi in all layers."""

    def read(self, fields: Fields, draft: Draft) -> None:
        """Set it."""
        draft.positions = [Alibi()] * draft["num_layers"]

    def write(self, view: View) -> Config:
        """Write nothing."""
        if set(view.positions) != {Alibi()}:
            raise Unfit("positions are not alibi with fixed slopes")
        return {}


@dataclass(frozen=True)
class RotaryDim:
    """GPT-J's rotary_dim; null turns whole heads. default: of the class."""

    default: int

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read it."""
        whole = "rotary_dim" in fields and not fields.has("rotary_dim")
        turning = fields.take_size("rotary_dim", draft.head_size if whole else self.default)
        rope = Rope(rotary_dim=None if turning == draft.head_size else turning)
        draft.positions = [rope] * draft["num_layers"]

    def write(self, view: View) -> Config:
        """Write it."""
        rope = view.rope
        if rope is None or replace(rope, rotary_dim=None) != Rope():
            raise Unfit("positions are not plain rope")
        return {"rotary_dim": rope.rotary_dim or view.block.attention.head_size}


@dataclass(frozen=True)
class OriginalLength:
    """Phi-3's original_max_position_embeddings beside its rope_scaling, whose part it becomes."""

    name: str = "original_max_position_embeddings"

    def read(self, fields: Fields, draft: Draft) -> None:
        """Move it into the scaling, before RoPE is read."""
        original = fields.take_size(self.name, 4096)
        for outer in ("rope_scaling", "rope_parameters"):
            scaling = fields.take_object(outer)
            if scaling.get("type", scaling.get("rope_type")) in ("longrope", "su", "yarn"):
                # Its class has one scaling, under three names.
                scaling = {self.name: original, **scaling, "rope_type": "longrope"}
                scaling.pop("type", None)
            fields.put_back(outer, scaling or None)

    def write(self, view: View) -> Config:
        """Write it."""
        scaling = view.rope.scaling if view.rope else None
        original = getattr(scaling, "original_max_seq_len", view.spec.max_seq_len)
        return {self.name: original}


@dataclass(frozen=True)
class BaichuanLength:
    """Baichuan's length: its 13B, which has ALiBi, calls it model_max_length."""

    def read(self, fields: Fields, draft: Draft) -> None:
        """Rename it before it is read, and note which positions there are."""
        if fields.has("max_position_embeddings"):
            return
        fields.put_back("max_position_embeddings", fields.take_size("model_max_length", 4096))
        draft.positions = [Alibi()]

    def write(self, view: View) -> Config:
        """Refuse: other tools have this class only as code in its repositories."""
        raise Unfit("Baichuan is read only")


@dataclass(frozen=True)
class BaichuanPositions:
    """Baichuan's positions: RoPE in 7B, ALiBi in 13B; after BaichuanLength and the layers."""

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read them."""
        if draft.positions:
            draft.positions *= draft["num_layers"]
        else:
            RopeOf().read(fields, draft)

    def write(self, view: View) -> Config:
        """Refuse, as BaichuanLength."""
        raise Unfit("Baichuan is read only")


@dataclass(frozen=True)
class ChatGlmRope:
    """ChatGLM 2's and 3's rotary positions, which turn half of a head."""

    def read(self, fields: Fields, draft: Draft) -> None:
        """Set them; a factor of them means two things."""
        fields.allow_only("original_rope", True)
        ratio = fields.take_number("rope_ratio")
        if ratio not in (None, 1.0):
            raise SpecError(
                f"config.json: 'rope_ratio' is {ratio:g}, by which the code of some ChatGLM "
                "divides positions and that of others multiplies theta, and config.json does not "
                "tell which; give the same model in the class Glm, whose folder's name ends in -hf",
                ("rope_ratio",),
            )
        size = draft.head_size
        turning = size // 2
        draft.positions = [Rope(rotary_dim=turning)] * draft["num_layers"]

    def write(self, view: View) -> Config:
        """Refuse: GLM's class, which transformers has, computes the same."""
        raise Unfit("ChatGLM is read only")


@dataclass(frozen=True)
class FixedAlpha:
    """HunYuan's scaling, called dynamic, of a fixed alpha: a larger theta, at every length."""

    def read(self, fields: Fields, draft: Draft) -> None:
        """Fold it into theta, before RoPE is read; the size of a head must have been read."""
        for outer in ("rope_scaling", "rope_parameters"):
            scaling = dict(fields.take_object(outer))
            alpha = scaling.pop("alpha", None)
            if alpha and scaling.get("type", scaling.get("rope_type")) == "dynamic":
                theta = scaling.get("rope_theta") or fields.take_number("rope_theta") or 10_000.0
                size = draft.head_size
                scaling = {"rope_theta": theta * alpha ** (size / (size - 2))}
                fields.take("rope_theta")
            fields.put_back(outer, scaling or None)

    def write(self, view: View) -> Config:
        """Write nothing: theta says it."""
        return {}


@dataclass(frozen=True)
class FalconPositions:
    """Falcon's: RoPE, or ALiBi whose slopes are scaled as scores are."""

    name: str = "alibi"

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read the flag, and what it leaves."""
        if fields.take_flag(self.name, False):
            draft.positions = [Alibi(scale=draft.head_size**-0.5)] * draft["num_layers"]
            for unused in ("rope_theta", "rope_scaling", "rope_parameters"):
                fields.take(unused)
        else:
            RopeOf().read(fields, draft)

    def write(self, view: View) -> Config:
        """Write the flag, and RoPE's fields."""
        if all(isinstance(one, Alibi) for one in view.positions):
            return {self.name: True}
        return {self.name: False} | RopeOf().write(view)
