"""Parts that say what a block is made of: heads, activation, norms. See `parts`."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hermes.interop.huggingface.draft import Draft, View
from hermes.interop.huggingface.fields import Fields
from hermes.interop.huggingface.layers import ACTIVATIONS, name_activation
from hermes.interop.huggingface.parts import Config, Unfit
from hermes.spec import FfnSpec, LayerNorm, Norm, RMSNorm

__all__ = [
    "Activation",
    "HeadDim",
    "KvHeads",
    "NormOf",
    "take_layer_norm",
    "take_rms_norm",
]

GATED = {"silu": "swiglu", "gelu": "geglu"}


@dataclass(frozen=True)
class KvHeads:
    """Key/value heads. default: where the field is missing; null means as many as queries."""

    name: str = "num_key_value_heads"
    default: int | None = None

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read them."""
        heads = draft["attention.num_heads"]
        missing = self.name not in fields and self.default is not None
        draft["attention.num_kv_heads"] = (
            self.default if missing else fields.take_size(self.name, heads)
        )

    def write(self, view: View) -> Config:
        """Write them."""
        return {self.name.split("|")[0]: view.block.attention.kv_heads}


@dataclass(frozen=True)
class HeadDim:
    """The size of a head. default: where the file does not say it; None for C / H."""

    default: int | None = None
    name: str = "head_dim"

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read it; None in MAL where heads make up the hidden size."""
        width, heads = draft["hidden_size"], draft["attention.num_heads"]
        size = fields.take_size(self.name, self.default or max(width // heads, 1))
        draft["attention.head_dim"] = None if size * heads == width else size

    def write(self, view: View) -> Config:
        """Write it."""
        return {self.name: view.block.attention.head_size}


@dataclass(frozen=True)
class Activation:
    """The function of the feed-forward network.

    default: of the class. gelu_tanh: which of Hugging Face's names of it to write. meanings: names
    that this class reads otherwise than others.
    """

    name: str
    default: str
    gated: bool
    gelu_tanh: str = "gelu_pytorch_tanh"
    meanings: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read the name; one that MAL lacks is refused."""
        act = fields.take_text(self.name, self.default)
        known = {**ACTIVATIONS, **self.meanings}
        if act not in known:
            fields.refuse(self.name, act)
        function = known[act]
        draft["ffn.activation"] = GATED.get(function, function) if self.gated else function
        draft["ffn.gate"] = True if self.gated and function not in GATED else None

    def write(self, view: View) -> Config:
        """Write the name."""
        ffn: FfnSpec = view.block.ffn
        if ffn.gated != self.gated:
            raise Unfit(f"ffn.gate is {ffn.gated}")
        return {self.name.split("|")[0]: name_activation(ffn, self.gelu_tanh)}


@dataclass(frozen=True)
class NormOf:
    """The norm of the blocks, which is also the final one. make: gives the norm of an eps."""

    name: str
    default: float
    make: Callable[[float], Norm]

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read the eps."""
        draft["norm"] = self.make(fields.take(self.name, self.default))

    def write(self, view: View) -> Config:
        """Write the eps."""
        norm = view.norm
        if not isinstance(norm, RMSNorm | LayerNorm) or self.make(norm.eps) != norm:
            raise Unfit(f"norm is {norm}")
        return {self.name.split("|")[0]: float(norm.eps)}


def take_rms_norm(name: str, default: float, *, unit_offset: bool = False) -> NormOf:
    """An RMSNorm whose eps is the field `name`."""
    return NormOf(name, default, lambda eps: RMSNorm(eps, unit_offset))


def take_layer_norm(name: str, default: float, *, bias: bool = True) -> NormOf:
    """A LayerNorm whose eps is the field `name`."""
    return NormOf(name, default, lambda eps: LayerNorm(eps, bias))
