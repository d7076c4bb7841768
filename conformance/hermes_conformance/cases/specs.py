"""The architectures that every backend is judged on.

`make_field_specs` changes one field of MAL at a time and names it by its path in a file; those that
combine every two values of any two fields are in crossed_specs.py. All run in milliseconds.
"""

from dataclasses import replace
from functools import cache
from typing import Any

from hermes.spec import (
    ACTIVATIONS,
    NORM_POSITIONS,
    Alibi,
    AttentionSpec,
    BlockSpec,
    EmbeddingsSpec,
    FfnSpec,
    LayerNorm,
    Learned,
    LinearScaling,
    Llama3Scaling,
    ModelSpec,
    NoNorm,
    NoPositions,
    Norm,
    OutputSpec,
    Positions,
    QkNorm,
    RMSNorm,
    Rope,
    YarnScaling,
)
from hermes_conformance.cases.attention_specs import make_attentions

ATTENTION, FFN = AttentionSpec(4, 2), FfnSpec(40)
POSITIONS: dict[str, Positions] = {
    "rope": Rope(),
    "rope-theta": Rope(500.0),
    "rope-linear": Rope(scaling=LinearScaling(4.0)),
    "rope-llama3": Rope(scaling=Llama3Scaling(8.0, 1.0, 4.0, 16)),
    "rope-yarn": Rope(scaling=YarnScaling(4.0, 16)),
    "rope-partial": Rope(rotary_dim=2),
    "learned": Learned(),
    "learned-long": Learned(40),
    "alibi": Alibi(),
    "alibi-learned": Alibi("learned"),
    "none": NoPositions(),
}
NORMS: dict[str, Norm] = {
    "rmsnorm": RMSNorm(),
    "rmsnorm-offset": RMSNorm(1e-6, unit_offset=True),
    "layernorm": LayerNorm(),
    "layernorm-nobias": LayerNorm(1e-3, bias=False),
    "rmsnorm-noweight": RMSNorm(weight=False),
    "layernorm-noweight": LayerNorm(weight=False),
    "none": NoNorm(),
}
HEADS = {  # label -> heads, key heads, head size
    "4/2": (4, 2, None),
    "4/1": (4, 1, None),
    "4/4": (4, 4, None),
    "12/3x2": (12, 3, 2),
    "3/3x10": (3, 3, 10),
    "2/1x80": (2, 1, 80),
}
MASKS = {  # label -> causal, window
    "causal": (True, None),
    "window": (True, 3),
    "self": (True, 1),
    "both": (False, None),
    "both-window": (False, 3),
}
GATED = tuple(f"{name}-gated" for name in ACTIVATIONS if name not in ("swiglu", "geglu"))
OTHER = BlockSpec(
    AttentionSpec(2, position_encoding=NoPositions(), window_size=4),
    FfnSpec(32, "relu2"),
    LayerNorm(),
    name="other",
)


def make_spec(
    attention: AttentionSpec = ATTENTION,
    ffn: FfnSpec = FFN,
    block: BlockSpec | None = None,
    **fields: Any,
) -> ModelSpec:
    """A small model with these parts. fields: other fields of ModelSpec."""
    block = replace(block or BlockSpec(attention), attention=attention, ffn=ffn)
    defaults = {"vocab_size": 37, "max_seq_len": 32, "hidden_size": 24, "num_layers": 2}
    return ModelSpec(blocks=(block,), **{**defaults, **fields})


def _change_attention(**fields: Any) -> ModelSpec:
    return make_spec(replace(AttentionSpec(4, 2), **fields))


def _change_block(**fields: Any) -> ModelSpec:
    return make_spec(block=replace(BlockSpec(AttentionSpec(4, 2)), **fields))


@cache
def make_field_specs() -> dict[str, ModelSpec]:
    """One architecture for every value of every field, the other fields at their defaults."""
    specs = {"default": make_spec()}
    for label, (heads, keys, size) in HEADS.items():
        specs[f"attention.heads={label}"] = _change_attention(
            num_heads=heads, num_kv_heads=keys, head_dim=size
        )
    specs["attention.num_kv_heads=default"] = _change_attention(num_kv_heads=None)
    for label, positions in POSITIONS.items():
        specs[f"attention.position_encoding={label}"] = _change_attention(
            position_encoding=positions
        )
    specs["attention.position_encoding=alibi/6"] = _change_attention(
        num_heads=6, position_encoding=Alibi()
    )
    for label, (causal, window) in MASKS.items():
        specs[f"attention.mask={label}"] = _change_attention(causal=causal, window_size=window)
    for bias in ("qkv", "all"):
        specs[f"attention.bias={bias}"] = _change_attention(bias=bias)
    specs["attention.bias=all/none"] = _change_attention(
        bias="all", position_encoding=NoPositions()
    )
    for kind in ("head", "flat"):
        specs[f"attention.qk_norm={kind}"] = _change_attention(qk_norm=kind)
    specs["attention.qk_norm=offset"] = make_spec(
        AttentionSpec(4, 2, qk_norm="head"), block=replace(OTHER, norm=RMSNorm(1e-4, True))
    )
    specs["attention.softcap=2"] = _change_attention(softcap=2.0)
    specs["attention.scale=0.3"] = _change_attention(scale=0.3)
    specs["attention.dropout=0.2"] = _change_attention(dropout=0.2)
    for name in ACTIVATIONS:
        specs[f"ffn.activation={name}"] = make_spec(ffn=FfnSpec(40, name))
    for name in GATED:
        specs[f"ffn.activation={name}"] = make_spec(
            ffn=FfnSpec(40, name.removesuffix("-gated"), gate=True)
        )
    clamped = FfnSpec(40, limit=1.5, alpha=1.702)
    specs["ffn.limit=1.5"] = make_spec(ffn=clamped)
    specs["ffn.limit=0.5/bias"] = make_spec(ffn=replace(clamped, limit=0.5, alpha=3.0, bias=True))
    specs["ffn.bias=true"] = make_spec(ffn=FfnSpec(40, "gelu", bias=True))
    specs["ffn.bias=true/gated"] = make_spec(ffn=FfnSpec(40, bias=True))
    specs["ffn.hidden_dim=default"] = make_spec(ffn=FfnSpec())
    specs["ffn.dropout=0.3"] = make_spec(ffn=FfnSpec(40, dropout=0.3))
    for position in NORM_POSITIONS:
        for label, norm in NORMS.items():
            specs[f"block.norm={label}/{position}"] = _change_block(
                norm=norm, norm_position=position
            )
    for position in ("pre", "sandwich"):
        specs[f"block.norm=layernorm-offset/{position}"] = _change_block(
            norm=LayerNorm(unit_offset=True), norm_position=position
        )
    specs["block.residual=false"] = _change_block(residual=False)
    specs["block.residual_scale=0.22"] = _change_block(residual_scale=0.22)
    for position in ("post", "sandwich"):
        specs[f"block.residual_scale=0.22/{position}"] = _change_block(
            residual_scale=0.22, norm_position=position, dropout=0.1
        )
    specs["block.residual_scale=3/parallel"] = _change_block(
        residual_scale=3.0, parallel=True, residual=False
    )
    specs["block.dropout=0.1"] = _change_block(dropout=0.1)
    specs["block.parallel=true"] = _change_block(parallel=True)
    specs["block.parallel=true/no residual"] = _change_block(parallel=True, residual=False)
    specs["block.parallel=true/sandwich"] = _change_block(parallel=True, norm_position="sandwich")
    for label in ("layernorm", "rmsnorm-offset"):
        specs[f"block.shared_norm=true/{label}"] = _change_block(
            norm=NORMS[label], parallel=True, shared_norm=True
        )
    specs["block.shared_norm=true/no residual"] = _change_block(
        residual=False, parallel=True, shared_norm=True, residual_scale=0.5
    )
    whole = make_spec().blocks[0]
    without_attention, without_ffn = replace(whole, attention=None), replace(whole, ffn=None)
    for part, block in (("attention", without_attention), ("ffn", without_ffn)):
        specs[f"block.{part}=none"] = replace(make_spec(), blocks=(block, whole))
        specs[f"block.{part}=none/everywhere"] = replace(make_spec(), blocks=(block,))
        for position in ("post", "sandwich"):
            specs[f"block.{part}=none/{position}"] = replace(
                make_spec(),
                blocks=(whole, replace(block, norm_position=position, residual_scale=0.5)),
            )
    specs["block.attention=none/ffn=none"] = replace(
        make_spec(num_layers=4), blocks=(without_ffn, without_attention)
    )
    specs["model.pattern"] = replace(make_spec(), blocks=(*make_spec().blocks, OTHER), num_layers=3)
    specs["model.num_layers=5"] = make_spec(num_layers=5)
    specs["model.vocab_size=2"] = make_spec(vocab_size=2)
    specs["model.vocab_size=101"] = make_spec(vocab_size=101)
    specs["embeddings.tie_weights=true"] = make_spec(embeddings=EmbeddingsSpec(tie_weights=True))
    specs["embeddings.dropout=0.15"] = make_spec(embeddings=EmbeddingsSpec(dropout=0.15))
    specs["embeddings.scale=4.9"] = make_spec(embeddings=EmbeddingsSpec(scale=24**0.5))
    specs["embeddings.norm=layernorm"] = make_spec(
        replace(ATTENTION, position_encoding=Learned()),
        embeddings=EmbeddingsSpec(tie_weights=True, dropout=0.1, scale=0.7, norm=LayerNorm(1e-3)),
    )
    specs["embeddings.norm=rmsnorm"] = make_spec(
        embeddings=EmbeddingsSpec(scale=0.1, norm=RMSNorm(1e-2, unit_offset=True))
    )
    specs["embeddings.norm=rmsnorm-noweight"] = make_spec(
        embeddings=EmbeddingsSpec(norm=RMSNorm(weight=False))
    )
    specs["output.bias=true"] = make_spec(output=OutputSpec(bias=True))
    specs["output.bias=true/tied"] = make_spec(
        output=OutputSpec(bias=True), embeddings=EmbeddingsSpec(tie_weights=True)
    )
    specs["output.norm=none"] = make_spec(output=OutputSpec(norm=NoNorm()))
    specs["output.norm=layernorm"] = make_spec(output=OutputSpec(norm=LayerNorm(1e-4)))
    specs["output.softcap=5"] = make_spec(output=OutputSpec(softcap=5.0))
    specs["output.scale=0.3"] = make_spec(output=OutputSpec(scale=0.3))
    specs["output.scale=3/capped"] = make_spec(
        output=OutputSpec(bias=True, softcap=5.0, scale=3.0),
        embeddings=EmbeddingsSpec(tie_weights=True),
    )
    specs["every dropout"] = make_spec(
        AttentionSpec(4, 2, dropout=0.2),
        FfnSpec(40, dropout=0.3),
        BlockSpec(AttentionSpec(4), dropout=0.1),
        embeddings=EmbeddingsSpec(dropout=0.15),
    )
    specs |= {name: make_spec(attention) for name, attention in make_attentions().items()}
    specs["attention.qk_norm=each_head offset"] = make_spec(
        AttentionSpec(4, 2, qk_norm=QkNorm("each_head")),
        block=replace(OTHER, norm=RMSNorm(1e-4, True)),
    )
    return specs
