"""Small models of the families whose blocks or tensors are further from Llama's."""

import dataclasses

from hermes.spec import (
    Alibi,
    EmbeddingsSpec,
    LayerNorm,
    NoPositions,
    OutputSpec,
    QkNorm,
    RMSNorm,
)
from tests.interop.models import GEMMA2, GPT2, LLAMA, change, rope

TIED = EmbeddingsSpec(tie_weights=True)
BARE, PLAIN = LayerNorm(bias=False), {"activation": "gelu_tanh", "bias": True}
SHARED = {"parallel": True, "shared_norm": True}
COHERE = dataclasses.replace(
    change(LLAMA, norm=BARE, **SHARED), embeddings=TIED, output=OutputSpec(scale=0.25)
)
FALCON = dataclasses.replace(
    change(LLAMA, attention={"num_kv_heads": 1}, norm=LayerNorm(), **SHARED),
    embeddings=TIED,
)
FALCON = change(FALCON, ffn={"activation": "gelu", "hidden_dim": 128})
GPTJ = dataclasses.replace(
    change(
        GPT2,
        attention={"bias": "none", **rope(rotary_dim=4)},
        **SHARED,
    ),
    embeddings=EmbeddingsSpec(),
    output=OutputSpec(bias=True),
)
BLOOM = dataclasses.replace(
    change(GPT2, attention={"position_encoding": Alibi()}),
    embeddings=EmbeddingsSpec(tie_weights=True, norm=LayerNorm()),
)
GPT_NEO = change(GPT2, attention={"bias": "o", "scale": 1.0})

# Families whose feed-forward network is relu squared without a gate.
NEMOTRON = change(
    LLAMA,
    attention=rope(rotary_dim=4),
    ffn={"activation": "relu2", "gate": False},
    norm=LayerNorm(unit_offset=True),
)
PERSIMMON = change(
    NEMOTRON,
    attention={"num_kv_heads": 4, "bias": "all", "qk_norm": QkNorm(norm="layernorm", bias=True)},
    ffn={"bias": True},
    norm=LayerNorm(),
)
NANOCHAT = dataclasses.replace(
    change(
        LLAMA,
        attention={"qk_norm": QkNorm(weight=False)},
        ffn={"activation": "relu2", "gate": False},
        norm=RMSNorm(weight=False),
    ),
    embeddings=EmbeddingsSpec(norm=RMSNorm(weight=False)),
    output=OutputSpec(softcap=15.0),
)

# name -> (model_type in Hugging Face's own names, spec).
OTHERS = {
    "olmo": ("olmo", change(LLAMA, norm=LayerNorm(weight=False), attention={"clip_qkv": 0.5})),
    "granite": (
        "granite",
        dataclasses.replace(
            change(LLAMA, attention={"scale": 0.2}, residual_scale=0.22),
            embeddings=EmbeddingsSpec(True, scale=12.0),
            output=OutputSpec(scale=1 / 8),
        ),
    ),
    "cohere": ("cohere", COHERE),
    "cohere qk_norm": (
        "cohere",
        change(COHERE, attention={"qk_norm": QkNorm("each_head", "layernorm")}),
    ),
    "cohere2": (
        "cohere2",
        dataclasses.replace(
            COHERE,
            blocks=(
                *[
                    dataclasses.replace(
                        change(COHERE, attention={"window_size": 5}).blocks[0], name="sliding"
                    )
                ]
                * 2,
                dataclasses.replace(
                    change(COHERE, attention={"position_encoding": NoPositions()}).blocks[0],
                    name="full",
                ),
            ),
        ),
    ),
    "phi": (
        "phi",
        dataclasses.replace(
            change(
                LLAMA,
                attention={"bias": "all", **rope(rotary_dim=4)},
                ffn=PLAIN,
                norm=LayerNorm(),
                **SHARED,
            ),
            output=OutputSpec(bias=True),
        ),
    ),
    "gptj": ("gptj", GPTJ),
    "codegen": ("codegen", dataclasses.replace(GPTJ, name="codegen")),
    "gpt_neo": (
        "gpt_neo",
        dataclasses.replace(
            GPT_NEO,
            blocks=(
                dataclasses.replace(GPT_NEO.blocks[0], name="full"),
                dataclasses.replace(
                    change(GPT_NEO, attention={"window_size": 5}).blocks[0], name="sliding"
                ),
            ),
        ),
    ),
    "falcon": ("falcon", FALCON),
    "falcon two norms": (
        "falcon",
        change(FALCON, attention={"num_kv_heads": 2}, shared_norm=False),
    ),
    "falcon in turn": (
        "falcon",
        dataclasses.replace(change(FALCON, parallel=False, shared_norm=False), name="falcon"),
    ),
    "falcon alibi": (
        "falcon",
        dataclasses.replace(
            change(
                FALCON,
                attention={"position_encoding": Alibi(scale=8**-0.5)},
                parallel=False,
                shared_norm=False,
            ),
            name="falcon",
        ),
    ),
    "hunyuan": (
        "hunyuan_v1_dense",
        change(LLAMA, attention={"qk_norm": QkNorm(after_rope=True)}),
    ),
    "nemotron": ("nemotron", NEMOTRON),
    "persimmon": ("persimmon", PERSIMMON),
    "nanochat": ("nanochat", NANOCHAT),
    "biogpt": (
        "biogpt",
        dataclasses.replace(
            change(GPT2, ffn={"activation": "gelu"}),
            embeddings=EmbeddingsSpec(tie_weights=True, scale=GPT2.hidden_size**0.5),
        ),
    ),
    "vaultgemma": (
        "vaultgemma",
        change(GEMMA2, norm_position="pre"),
    ),
    "bloom": ("bloom", BLOOM),
    "mpt": (
        "mpt",
        change(
            GPT2,
            attention={"bias": "none", "position_encoding": Alibi()},
            ffn={"activation": "gelu", "bias": False},
            norm=BARE,
        ),
    ),
}
