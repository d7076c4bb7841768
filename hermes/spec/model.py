"""A whole model: blocks, embeddings and output, validated together and resolved into layers."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property

from hermes.errors import SpecError
from hermes.formatting import format_count
from hermes.spec.attention import AttentionSpec
from hermes.spec.block import BlockSpec, FfnSpec
from hermes.spec.checks import MAX_SIZE, check_positive, check_rate, check_size, check_types
from hermes.spec.parts import LayerNorm, Learned, Norm, Positions, RMSNorm
from hermes.spec.rope import LongRopeScaling, Rope, YarnScaling

MAX_LAYERS = 10_000


@dataclass(frozen=True)
class EmbeddingsSpec:
    """Token embeddings; `scale` is a factor of them (Gemma: sqrt(C)).

    norm: applied to them after scale, before learned positions are added (Bloom); None for no norm.
    """

    tie_weights: bool = False
    dropout: float = 0.0
    scale: float | None = None
    norm: RMSNorm | LayerNorm | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_rate(self)


@dataclass(frozen=True)
class OutputSpec:
    """The final norm (None: as the last block's) and the head.

    scale s: logits are multiplied by s (None: 1); softcap c: they become c tanh(logits / c), after.
    """

    bias: bool = False
    norm: Norm | None = None
    softcap: float | None = None
    scale: float | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "scale")
        check_positive(self, "softcap")


@dataclass(frozen=True)
class ModelSpec:
    """A whole model. `blocks` is the pattern that the layers repeat; usually a single block."""

    blocks: tuple[BlockSpec, ...]
    name: str = "model"
    description: str = ""
    vocab_size: int = 32_000
    max_seq_len: int = 2048
    hidden_size: int = 768
    num_layers: int = 12
    embeddings: EmbeddingsSpec = EmbeddingsSpec()
    output: OutputSpec = OutputSpec()

    def __post_init__(self) -> None:
        check_types(self)
        check_size(self, "vocab_size")
        check_size(self, "max_seq_len")
        check_size(self, "hidden_size")
        check_size(self, "num_layers")
        if self.num_layers > MAX_LAYERS:
            raise SpecError(
                f"num_layers must be at most {MAX_LAYERS}, got {self.num_layers}", ("num_layers",)
            )
        if not self.name:
            raise SpecError("a model needs a name", ("name",))
        if not self.blocks or not all(type(block) is BlockSpec for block in self.blocks):
            raise SpecError("blocks must be a tuple of at least one BlockSpec", ("blocks",))
        if len(self.blocks) > self.num_layers:
            raise SpecError(
                f"the pattern has {len(self.blocks)} blocks, more than num_layers "
                f"{self.num_layers}, so that some would never be built",
                ("blocks",),
            )
        for index, block in enumerate(self.blocks):
            if block.attention is not None:
                self._check_head_size(block.attention, ("blocks", index, "attention"))
            if block.ffn is not None:
                self._check_ffn_size(block.ffn, ("blocks", index, "ffn"))
        self._check_names()
        self._check_learned_positions()

    def __repr__(self) -> str:
        return (
            f"ModelSpec({self.name}, {format_count(self.num_layers, 'layers')}, "
            f"hidden_size {self.hidden_size}, "
            f"vocab_size {self.vocab_size:,}, max_seq_len {self.max_seq_len:,})"
        )

    def _check_head_size(self, attention: AttentionSpec, path: tuple[str | int, ...]) -> None:
        if attention.head_dim is None and self.hidden_size % attention.num_heads:
            raise SpecError(
                f"num_heads is {attention.num_heads}, which does not divide "
                f"hidden_size {self.hidden_size}; choose another or set head_dim",
                (*path, "num_heads"),
            )
        size = attention.head_dim or self.hidden_size // attention.num_heads
        if isinstance(attention.position_encoding, Rope):
            turning = attention.position_encoding.rotary_dim
            if turning is None and size % 2:
                raise SpecError(
                    f"attention needs an even head_dim for rope, got {size}",
                    (*path, "head_dim" if attention.head_dim else "num_heads"),
                )
            if turning is not None and turning > size:
                raise SpecError(
                    f"rotary_dim is {turning}, more than head_dim {size}",
                    (*path, "position_encoding", "rotary_dim"),
                )
            try:
                attention.position_encoding.check_rotated(turning or size)
            except SpecError as error:
                place = (*path, "position_encoding", *error.path)
                raise SpecError(str(error), place) from error

    def _check_ffn_size(self, ffn: FfnSpec, path: tuple[str | int, ...]) -> None:
        if ffn.hidden_dim is None and 4 * self.hidden_size > MAX_SIZE:
            raise SpecError(
                f"hidden_dim, left out, would be 4 * hidden_size = {4 * self.hidden_size}, above "
                f"{MAX_SIZE}",
                path,
            )

    def _check_names(self) -> None:
        """Refuse two different definitions of one name, which a MAL file could not tell apart."""
        known: dict[tuple[str, str], object] = {}
        for index, block in enumerate(self.blocks):
            parts = (("block", block), ("attention", block.attention), ("ffn", block.ffn))
            for kind, part in parts:
                # A file says `none` for a part that a layer does not have.
                name = "none" if part is None else part.name
                if name and known.setdefault((kind, name), part) != part:
                    raise SpecError(
                        f"two different {kind} definitions of the pattern are both named {name!r}",
                        ("blocks", index) if kind == "block" else ("blocks", index, kind),
                    )

    def _check_learned_positions(self) -> None:
        first = None
        for index, block in enumerate(self.blocks):
            positions = block.attention and block.attention.position_encoding
            if not isinstance(positions, Learned):
                continue
            size = positions.max_positions or self.max_seq_len
            first = first or size
            path = ("blocks", index, "attention", "position_encoding", "max_positions")
            if size != first:
                raise SpecError(
                    f"max_positions is {size} here and {first} in another block; the embedding of "
                    "positions is one for the whole model",
                    path,
                )
            if size < self.max_seq_len:
                raise SpecError(
                    f"max_positions is {size}, less than max_seq_len {self.max_seq_len}", path
                )

    @cached_property
    def layers(self) -> tuple[BlockSpec, ...]:
        """The L blocks in order, with derived fields filled in: what a backend builds."""
        resolved = [
            dataclasses.replace(
                block,
                attention=block.attention and self._resolve_attention(block.attention),
                ffn=block.ffn and self._resolve_ffn(block.ffn),
                name="",
            )
            for block in self.blocks
        ]
        return tuple(resolved[i % len(resolved)] for i in range(self.num_layers))

    def _resolve_attention(self, attention: AttentionSpec) -> AttentionSpec:
        size = attention.head_dim or self.hidden_size // attention.num_heads
        return dataclasses.replace(
            attention,
            num_kv_heads=attention.kv_heads,
            head_dim=size,
            v_head_dim=attention.v_head_dim or size,
            position_encoding=self._resolve_rope(attention.position_encoding),
            name="",
        )

    def _resolve_rope(self, positions: Positions) -> Positions:
        """Fill in what max_seq_len decides."""
        match positions:
            case Rope(scaling=LongRopeScaling() as scaling):
                return dataclasses.replace(positions, scaling=scaling.resolve(self.max_seq_len))
        return positions

    def _resolve_ffn(self, ffn: FfnSpec) -> FfnSpec:
        return dataclasses.replace(
            ffn,
            hidden_dim=ffn.hidden_dim or 4 * self.hidden_size,
            activation=ffn.function,
            gate=ffn.gated,
            name="",
        )

    @property
    def attentions(self) -> tuple[AttentionSpec, ...]:
        """The attention of each layer that has one, in order, resolved."""
        return tuple(block.attention for block in self.layers if block.attention is not None)

    @property
    def final_norm(self) -> Norm:
        """The norm before the head."""
        return self.layers[-1].norm if self.output.norm is None else self.output.norm

    @property
    def learned_positions(self) -> int:
        """Rows of the position embedding; 0 where no block has learned positions."""
        for attention in self.attentions:
            if isinstance(attention.position_encoding, Learned):
                return attention.position_encoding.max_positions or self.max_seq_len
        return 0

    @property
    def has_dropout(self) -> bool:
        """Whether any dropout rate is above 0."""
        parts = (p for block in self.blocks for p in (block, block.attention, block.ffn))
        return self.embeddings.dropout > 0 or any(p.dropout > 0 for p in parts if p is not None)

    @property
    def identity(self) -> tuple[object, ...]:
        """All that determines what a model computes; equal for two spellings of one model."""
        output = dataclasses.replace(self.output, norm=self.final_norm)
        sizes = (self.vocab_size, self.max_seq_len, self.hidden_size)
        layers = tuple(
            dataclasses.replace(
                block, attention=block.attention and self._resolve_positions(block.attention)
            )
            for block in self.layers
        )
        return (*sizes, layers, self.embeddings, output)

    def _resolve_positions(self, attention: AttentionSpec) -> AttentionSpec:
        """Resolve what `layers` leaves: of positions, and the scale of the scores."""
        positions = attention.position_encoding
        match positions:
            case Rope(scaling=scaling):
                if isinstance(scaling, YarnScaling):
                    scaling = dataclasses.replace(scaling, attention_factor=scaling.magnitude)
                size = attention.rotary_size
                positions = dataclasses.replace(positions, scaling=scaling, rotary_dim=size)
            case Learned():
                positions = Learned(self.learned_positions)
        scale = attention.score_scale
        return dataclasses.replace(attention, position_encoding=positions, scale=scale)
