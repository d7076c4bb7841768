"""The architectures that every backend is judged on.

FIELDS changes one field of MAL at a time, by the path it has in a file; `crossed` lets every two
values of any two fields meet. All are small enough to run in milliseconds.
"""

from dataclasses import replace
from functools import cache

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
    OutputSpec,
    RMSNorm,
    Rope,
    YarnScaling,
)
from hermes_conformance.cases.covering_array import cover

ATTENTION, FFN = AttentionSpec(4, 2), FfnSpec(40)
POSITIONS = {
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
NORMS = {
    "rmsnorm": RMSNorm(),
    "rmsnorm-offset": RMSNorm(1e-6, unit_offset=True),
    "layernorm": LayerNorm(),
    "layernorm-nobias": LayerNorm(1e-3, bias=False),
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

FACTORS = {
    "positions": tuple(POSITIONS),
    "activation": (*ACTIVATIONS, *GATED),
    "heads": tuple(HEADS),
    "norm": tuple(NORMS),
    "mask": tuple(MASKS),
    "norm_position": NORM_POSITIONS,
    "layers": ("1", "2", "3 of pattern"),
    "bias": ("none", "qkv", "all"),
    "qk_norm": ("none", "head", "flat"),
    "output_norm": ("last", "none", "layernorm"),
    "attention_dropout": ("0", "0.2"),
    "softcap": ("none", "2"),
    "scale": ("none", "0.3"),
    "ffn_bias": ("no", "yes"),
    "ffn_dropout": ("0", "0.3"),
    "hidden_dim": ("40", "default"),
    "residual": ("yes", "no"),
    "parallel": ("no", "yes"),
    "block_dropout": ("0", "0.1"),
    "tied": ("no", "yes"),
    "embedding_dropout": ("0", "0.15"),
    "embedding_scale": ("none", "3"),
    "output_bias": ("no", "yes"),
    "output_softcap": ("none", "5"),
    "vocab_size": ("37", "64"),
}


def model(
    attention: AttentionSpec = ATTENTION,
    ffn: FfnSpec = FFN,
    block: BlockSpec | None = None,
    **fields,
) -> ModelSpec:
    """A small model with these parts; other fields are those of ModelSpec."""
    made = replace(block or BlockSpec(attention), attention=attention, ffn=ffn)
    usual = {"vocab_size": 37, "max_seq_len": 32, "hidden_size": 24, "num_layers": 2}
    return ModelSpec(blocks=(made,), **{**usual, **fields})


def _attention(**fields) -> ModelSpec:
    return model(replace(AttentionSpec(4, 2), **fields))


def _block(**fields) -> ModelSpec:
    return model(block=replace(BlockSpec(AttentionSpec(4, 2)), **fields))


@cache
def fields() -> dict[str, ModelSpec]:
    """One architecture for every value of every field, all else at its default."""
    made = {"default": model()}
    for label, (heads, keys, size) in HEADS.items():
        made[f"attention.heads={label}"] = _attention(
            num_heads=heads, num_kv_heads=keys, head_dim=size
        )
    made["attention.num_kv_heads=default"] = _attention(num_kv_heads=None)
    for label, positions in POSITIONS.items():
        made[f"attention.position_encoding={label}"] = _attention(position_encoding=positions)
    made["attention.position_encoding=alibi/6"] = _attention(num_heads=6, position_encoding=Alibi())
    for label, (causal, window) in MASKS.items():
        made[f"attention.mask={label}"] = _attention(causal=causal, window_size=window)
    for bias in ("qkv", "all"):
        made[f"attention.bias={bias}"] = _attention(bias=bias)
    made["attention.bias=all/none"] = _attention(bias="all", position_encoding=NoPositions())
    for kind in ("head", "flat"):
        made[f"attention.qk_norm={kind}"] = _attention(qk_norm=kind)
    made["attention.qk_norm=offset"] = model(
        AttentionSpec(4, 2, qk_norm="head"), block=replace(OTHER, norm=RMSNorm(1e-4, True))
    )
    made["attention.softcap=2"] = _attention(softcap=2.0)
    made["attention.scale=0.3"] = _attention(scale=0.3)
    made["attention.dropout=0.2"] = _attention(dropout=0.2)
    for name in ACTIVATIONS:
        made[f"ffn.activation={name}"] = model(ffn=FfnSpec(40, name))
    for name in GATED:
        made[f"ffn.activation={name}"] = model(
            ffn=FfnSpec(40, name.removesuffix("-gated"), gate=True)
        )
    made["ffn.bias=true"] = model(ffn=FfnSpec(40, "gelu", bias=True))
    made["ffn.bias=true/gated"] = model(ffn=FfnSpec(40, bias=True))
    made["ffn.hidden_dim=default"] = model(ffn=FfnSpec())
    made["ffn.dropout=0.3"] = model(ffn=FfnSpec(40, dropout=0.3))
    for position in NORM_POSITIONS:
        for label, norm in NORMS.items():
            made[f"block.norm={label}/{position}"] = _block(norm=norm, norm_position=position)
    made["block.residual=false"] = _block(residual=False)
    made["block.dropout=0.1"] = _block(dropout=0.1)
    made["block.parallel=true"] = _block(parallel=True)
    made["block.parallel=true/no residual"] = _block(parallel=True, residual=False)
    made["block.parallel=true/sandwich"] = _block(parallel=True, norm_position="sandwich")
    made["model.pattern"] = replace(model(), blocks=(*model().blocks, OTHER), num_layers=3)
    made["model.num_layers=5"] = model(num_layers=5)
    made["model.vocab_size=2"] = model(vocab_size=2)
    made["model.vocab_size=101"] = model(vocab_size=101)
    made["embeddings.tie_weights=true"] = model(embeddings=EmbeddingsSpec(tie_weights=True))
    made["embeddings.dropout=0.15"] = model(embeddings=EmbeddingsSpec(dropout=0.15))
    made["embeddings.scale=4.9"] = model(embeddings=EmbeddingsSpec(scale=24**0.5))
    made["output.bias=true"] = model(output=OutputSpec(bias=True))
    made["output.bias=true/tied"] = model(
        output=OutputSpec(bias=True), embeddings=EmbeddingsSpec(tie_weights=True)
    )
    made["output.norm=none"] = model(output=OutputSpec(norm=NoNorm()))
    made["output.norm=layernorm"] = model(output=OutputSpec(norm=LayerNorm(1e-4)))
    made["output.softcap=5"] = model(output=OutputSpec(softcap=5.0))
    made["every dropout"] = model(
        AttentionSpec(4, 2, dropout=0.2),
        FfnSpec(40, dropout=0.3),
        BlockSpec(AttentionSpec(4), dropout=0.1),
        embeddings=EmbeddingsSpec(dropout=0.15),
    )
    return made


def _allowed(row: dict[str, str]) -> bool:
    return not (row.get("parallel") == "yes" and row.get("norm_position") == "post")


@cache
def crossed() -> dict[str, ModelSpec]:
    """Architectures in which every two values of any two factors meet, by the row's number."""
    rows = cover(FACTORS, _allowed)
    return {f"crossed.{n:03d}": _crossed(row) for n, row in enumerate(rows)}


def _number(text: str) -> float | None:
    return None if text == "none" else float(text)


def _crossed(row: dict[str, str]) -> ModelSpec:
    heads, keys, size = HEADS[row["heads"]]
    causal, window = MASKS[row["mask"]]
    attention = AttentionSpec(
        heads,
        keys,
        size,
        bias=row["bias"],
        dropout=float(row["attention_dropout"]),
        causal=causal,
        window_size=window,
        position_encoding=POSITIONS[row["positions"]],
        qk_norm=row["qk_norm"],
        softcap=_number(row["softcap"]),
        scale=_number(row["scale"]),
    )
    activation, _, gated = row["activation"].partition("-")
    ffn = FfnSpec(
        40 if row["hidden_dim"] == "40" else None,
        activation,
        True if gated else None,
        bias=row["ffn_bias"] == "yes",
        dropout=float(row["ffn_dropout"]),
    )
    block = BlockSpec(
        attention,
        ffn,
        NORMS[row["norm"]],
        row["norm_position"],
        residual=row["residual"] == "yes",
        dropout=float(row["block_dropout"]),
        parallel=row["parallel"] == "yes",
    )
    output_norms = {"last": None, "none": NoNorm(), "layernorm": LayerNorm()}
    return ModelSpec(
        blocks=(block, OTHER) if "pattern" in row["layers"] else (block,),
        vocab_size=int(row["vocab_size"]),
        max_seq_len=32,
        hidden_size=24,
        num_layers=int(row["layers"][0]),
        embeddings=EmbeddingsSpec(
            tie_weights=row["tied"] == "yes",
            dropout=float(row["embedding_dropout"]),
            scale=_number(row["embedding_scale"]),
        ),
        output=OutputSpec(
            bias=row["output_bias"] == "yes",
            norm=output_norms[row["output_norm"]],
            softcap=_number(row["output_softcap"]),
        ),
    )
