"""Small models of each family that other tools have a class for, and their loud weights."""

import dataclasses
import math

from safetensors.numpy import save_file

from hermes import mal
from hermes.spec import (
    AttentionSpec,
    BlockSpec,
    EmbeddingsSpec,
    FfnSpec,
    LayerNorm,
    Learned,
    LinearScaling,
    Llama3Scaling,
    ModelSpec,
    NoPositions,
    OutputSpec,
    QkNorm,
    RMSNorm,
    Rope,
    YarnScaling,
)
from hermes_conformance.cases.case import Case
from hermes_conformance.cases.weights import draw_hot

# With heads of 16 and theta 100 the ramp runs from pair 1 to pair 5 of 8.
YARN = YarnScaling(factor=4.0, original_max_seq_len=64, beta_fast=4.0, beta_slow=1.0)
LLAMA3 = Llama3Scaling(8.0, 1.0, 4.0, 16)
LINEAR = LinearScaling(2.0)
GATED_TANH = {"activation": "gelu_tanh", "gate": True}


def model(*blocks, **fields):
    base = {"vocab_size": 96, "max_seq_len": 64, "hidden_size": 32, "num_layers": 3}
    return ModelSpec(blocks=blocks, **(base | fields))


def block(attention=None, ffn=None, **fields):
    heads = {"num_heads": 4, "num_kv_heads": 2} | (attention or {})
    return BlockSpec(
        AttentionSpec(**heads), FfnSpec(**({"hidden_dim": 48} | (ffn or {}))), **fields
    )


def change(spec, *, attention=None, ffn=None, **fields):
    """The spec with these fields of every block, its attention and its ffn set."""
    blocks = tuple(
        dataclasses.replace(
            b,
            attention=dataclasses.replace(b.attention, **(attention or {})),
            ffn=dataclasses.replace(b.ffn, **(ffn or {})),
            **fields,
        )
        for b in spec.blocks
    )
    return dataclasses.replace(spec, blocks=blocks)


def gemma(attention, name="", norm_position="sandwich", **fields):
    heads = {"head_dim": 12} | attention
    norm = RMSNorm(1e-6, unit_offset=True)
    return block(heads, GATED_TANH, norm=norm, norm_position=norm_position, name=name, **fields)


def rope(scaling=None, theta=10_000.0, rotary_dim=None):
    return {"position_encoding": Rope(theta, scaling, rotary_dim)}


LLAMA = model(block())
QWEN2 = model(block({"bias": "qkv"}), embeddings=EmbeddingsSpec(tie_weights=True))
QWEN3 = model(block({"head_dim": 12, "qk_norm": "head"}))
OLMO2 = model(block({"qk_norm": "flat"}, norm_position="output"))
GEMMA2 = model(
    gemma({"window_size": 5, "softcap": 50.0, "scale": 20**-0.5}, "sliding"),
    gemma({"softcap": 50.0, "scale": 20**-0.5}, "full"),
    embeddings=EmbeddingsSpec(tie_weights=True, scale=math.sqrt(32)),
    output=OutputSpec(softcap=30.0),
)
GEMMA3 = model(
    gemma({"window_size": 5, "qk_norm": "head"}, "sliding"),
    gemma({"window_size": 5, "qk_norm": "head"}, "sliding"),
    gemma({"qk_norm": "head", **rope(LinearScaling(8.0), 1e6)}, "full"),
    hidden_size=64,  # whose root is a number that bfloat16 has
    num_layers=4,
    embeddings=EmbeddingsSpec(tie_weights=True, scale=8.0),
)
GPT2 = model(
    block(
        {"num_kv_heads": None, "bias": "all", "position_encoding": Learned()},
        {"hidden_dim": 128, "activation": "gelu_tanh", "bias": True},
        norm=LayerNorm(),
    ),
    embeddings=EmbeddingsSpec(tie_weights=True),
)
GPT_NEOX = model(
    block(
        {"num_kv_heads": None, "bias": "all", **rope(rotary_dim=2)},
        {"hidden_dim": 128, "activation": "gelu_tanh", "bias": True},
        norm=LayerNorm(),
        parallel=True,
    )
)

# name -> (model_type in Hugging Face's own names, spec).
MODELS = {
    "llama": ("llama", LLAMA),
    "llama biases tied": (
        "llama",
        dataclasses.replace(
            change(LLAMA, attention={"bias": "all", "head_dim": 10}, ffn={"bias": True}),
            embeddings=EmbeddingsSpec(tie_weights=True),
        ),
    ),
    "llama llama3": ("llama", change(LLAMA, attention=rope(LLAMA3, 5e5))),
    "llama linear": ("llama", change(LLAMA, attention=rope(LINEAR))),
    "llama yarn": ("llama", change(LLAMA, attention={"head_dim": 16, **rope(YARN, 100.0)})),
    "llama gelu": ("llama", change(LLAMA, ffn={"activation": "geglu"})),
    "llama relu2": ("llama", change(LLAMA, ffn={"activation": "relu2", "gate": True})),
    "mistral window": ("mistral", change(LLAMA, attention={"window_size": 5})),
    "mistral long window": ("mistral", change(LLAMA, attention={"window_size": 64})),
    "mistral odd width": (
        "mistral",
        dataclasses.replace(change(LLAMA, attention={"head_dim": 8}), hidden_size=34),
    ),
    "qwen2": ("qwen2", QWEN2),
    "qwen2 head_dim": ("qwen2", change(QWEN2, attention={"head_dim": 12})),
    "qwen2 windows": (
        "qwen2",
        dataclasses.replace(
            QWEN2,
            blocks=(
                block({"bias": "qkv"}, name="full"),
                block({"bias": "qkv", "window_size": 5}, name="sliding"),
            ),
        ),
    ),
    "qwen2 all sliding": ("qwen2", change(QWEN2, attention={"window_size": 4})),
    "qwen3": ("qwen3", QWEN3),
    "qwen3 biases yarn": ("qwen3", change(QWEN3, attention={"bias": "all", **rope(YARN)})),
    "qwen3 window": ("qwen3", change(QWEN3, attention={"window_size": 6})),
    "olmo2": ("olmo2", OLMO2),
    "olmo2 biases": ("olmo2", change(OLMO2, attention={"bias": "all"})),
    "olmo2 linear": ("olmo2", change(OLMO2, attention=rope(LINEAR))),
    "olmo2 llama3": ("olmo2", change(OLMO2, attention=rope(LLAMA3, 5e5))),
    "gemma2": ("gemma2", GEMMA2),
    "gemma2 long window": ("gemma2", change(GEMMA2, attention={"window_size": 64})),
    "gemma2 no window": ("gemma2", change(GEMMA2, attention={"window_size": None})),
    "gemma2 linear": (
        "gemma2",
        change(GEMMA2, attention={"window_size": None, **rope(LINEAR)}),
    ),
    "gemma2 no softcap": ("gemma2", change(GEMMA2, attention={"softcap": None})),
    "gemma2 no final softcap": ("gemma2", dataclasses.replace(GEMMA2, output=OutputSpec())),
    "gemma2 untied": (
        "gemma2",
        dataclasses.replace(GEMMA2, embeddings=EmbeddingsSpec(scale=math.sqrt(32))),
    ),
    "gemma2 biases": ("gemma2", change(GEMMA2, attention={"bias": "all"})),
    "gemma2 gelu": (
        "gemma2",
        change(GEMMA2, attention={"window_size": None}, ffn={"activation": "geglu"}),
    ),
    "gemma3": ("gemma3_text", GEMMA3),
    "gemma3 no window": (
        "gemma3_text",
        dataclasses.replace(GEMMA3, blocks=(dataclasses.replace(GEMMA3.blocks[2], name=""),)),
    ),
    "gemma3 all sliding": (
        "gemma3_text",
        dataclasses.replace(GEMMA3, blocks=(dataclasses.replace(GEMMA3.blocks[0], name=""),)),
    ),
    "gemma3 full first": (
        "gemma3_text",
        dataclasses.replace(GEMMA3, blocks=(GEMMA3.blocks[2], GEMMA3.blocks[0])),
    ),
    "gemma3 final softcap": (
        "gemma3_text",
        dataclasses.replace(GEMMA3, output=OutputSpec(softcap=10.0)),
    ),
    "gemma3 untied": (
        "gemma3_text",
        dataclasses.replace(GEMMA3, embeddings=EmbeddingsSpec(scale=8.0)),
    ),
    "gemma3 odd root": (
        "gemma3_text",
        dataclasses.replace(
            GEMMA3, hidden_size=32, embeddings=EmbeddingsSpec(True, scale=math.sqrt(32))
        ),
    ),
    "gemma3 biases": ("gemma3_text", change(GEMMA3, attention={"bias": "all"})),
    "gpt2": ("gpt2", GPT2),
    "gpt2 untied": ("gpt2", dataclasses.replace(GPT2, embeddings=EmbeddingsSpec())),
    "gpt2 gelu": ("gpt2", change(GPT2, ffn={"activation": "gelu"})),
    "gpt2 narrow": ("gpt2", change(GPT2, ffn={"hidden_dim": 48})),
    "neox": ("gpt_neox", GPT_NEOX),
    "neox one after the other": ("gpt_neox", change(GPT_NEOX, parallel=False)),
    "neox tied": (
        "gpt_neox",
        dataclasses.replace(GPT_NEOX, embeddings=EmbeddingsSpec(tie_weights=True)),
    ),
    "neox gelu": ("gpt_neox", change(GPT_NEOX, ffn={"activation": "gelu"})),
    "neox no attention bias": ("gpt_neox", change(GPT_NEOX, attention={"bias": "none"})),
    "neox linear": ("gpt_neox", change(GPT_NEOX, attention=rope(LINEAR, rotary_dim=4))),
    "neox yarn": ("gpt_neox", change(GPT_NEOX, attention=rope(YARN))),
    # 26 / 45 * 45 is less than 26 in floating point.
    "neox odd share": (
        "gpt_neox",
        model(
            block(
                {"num_heads": 2, "num_kv_heads": None, "bias": "all", **rope(rotary_dim=26)},
                {"hidden_dim": 360, "activation": "gelu_tanh", "bias": True},
                norm=LayerNorm(),
                parallel=True,
            ),
            hidden_size=90,
        ),
    ),
}

LAYERS = (
    dataclasses.replace(LLAMA.blocks[0], name="full"),
    dataclasses.replace(change(LLAMA, attention={"window_size": 5}).blocks[0], name="sliding"),
)
STILL = dataclasses.replace(
    change(LLAMA, attention={"position_encoding": NoPositions()}).blocks[0], name="still"
)
SANDWICH = change(LLAMA, attention={"bias": "qkv", **rope(rotary_dim=4)}, norm_position="sandwich")
EXAONE4 = change(LLAMA, attention={"qk_norm": "head"}, norm_position="output")
OLMO3 = change(OLMO2, attention={"window_size": 4})
BIGCODE = change(GPT2, attention={"num_kv_heads": 1})
PLAIN = {"activation": "gelu_tanh", "bias": True}

MODELS |= {
    "smollm3": ("smollm3", dataclasses.replace(LLAMA, blocks=(LAYERS[0], STILL))),
    "smollm3 windows": ("smollm3", change(LLAMA, attention={"window_size": 5, "bias": "all"})),
    "ministral": ("ministral", dataclasses.replace(LLAMA, blocks=LAYERS)),
    "arcee": ("arcee", change(LLAMA, ffn={"activation": "relu2"})),
    "arcee gelu": ("arcee", change(LLAMA, ffn={"activation": "gelu"})),
    "seed_oss": ("seed_oss", change(LLAMA, attention={"bias": "qkv"}, ffn={"bias": True})),
    "olmo3": ("olmo3", OLMO3),
    "olmo3 yarn": (
        "olmo3",
        dataclasses.replace(
            OLMO3,
            blocks=(
                dataclasses.replace(OLMO3.blocks[0], name="sliding"),
                dataclasses.replace(change(OLMO2, attention=rope(YARN)).blocks[0], name="full"),
            ),
        ),
    ),
    "exaone4": ("exaone4", EXAONE4),
    "exaone4 windows": (
        "exaone4",
        dataclasses.replace(
            EXAONE4,
            blocks=(
                dataclasses.replace(
                    change(EXAONE4, attention={"window_size": 5}).blocks[0], name="sliding"
                ),
                dataclasses.replace(
                    change(EXAONE4, attention={"position_encoding": NoPositions()}).blocks[0],
                    name="still",
                ),
            ),
        ),
    ),
    "gemma": (
        "gemma",
        dataclasses.replace(
            change(GEMMA2, attention={"window_size": None, "softcap": None, "scale": None}),
            blocks=(gemma({}, norm_position="pre"),),
            output=OutputSpec(),
        ),
    ),
    "phi3": ("phi3", change(LLAMA, attention=rope(rotary_dim=4))),
    "phi3 window": ("phi3", change(LLAMA, attention={"window_size": 5, **rope(rotary_dim=4)})),
    "glm": ("glm", change(LLAMA, attention={"bias": "qkv", **rope(rotary_dim=4)})),
    "glm4": ("glm4", SANDWICH),
    "stablelm": ("stablelm", change(LLAMA, attention=rope(rotary_dim=2), norm=LayerNorm())),
    "stablelm biases": (
        "stablelm",
        change(LLAMA, attention={"bias": "qkv", **rope(rotary_dim=2)}, norm=LayerNorm()),
    ),
    "stablelm head norms": (
        "stablelm",
        change(
            LLAMA,
            attention={"qk_norm": QkNorm("each_head", "layernorm"), **rope(rotary_dim=2)},
            norm=LayerNorm(),
        ),
    ),
    "gpt_bigcode": ("gpt_bigcode", BIGCODE),
    "opt": ("opt", dataclasses.replace(change(GPT2, ffn={"activation": "relu"}), name="opt")),
    "starcoder2": (
        "starcoder2",
        model(block({"bias": "all"}, PLAIN, norm=LayerNorm())),
    ),
    "starcoder2 window": (
        "starcoder2",
        model(block({"bias": "all", "window_size": 5}, PLAIN, norm=LayerNorm())),
    ),
}


def hot_weights(spec):
    """Weights loud enough that every part of the model shows in its logits."""
    return draw_hot(Case("interop", spec, draw_hot))


def bare(folder, spec, weights=None):
    """Weights alone, with their MAL beside them: the first arguments of a conversion."""
    folder.mkdir(exist_ok=True)
    save_file(dict(weights or hot_weights(spec)), folder / "w.safetensors")
    (folder / "m.mal").write_text(mal.dumps(spec))
    return {"source": folder / "w.safetensors", "config": folder / "m.mal"}
