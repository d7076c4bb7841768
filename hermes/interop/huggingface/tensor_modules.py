"""Names of modules in other classes' files, to ours, for families whose names are their own.

{i} is the layer; {attention_in} and the like are keys of NORM_NAMES and stand for the norm at that
position. Several of ours, apart by spaces, are one matrix there: their rows in this order. A mark
after a name: `*` a matrix stored as (in, out); `@` the rows are cut into as many groups as there
are key/value heads, or as a number after it says, and follow group by group; `+n` there are n rows
before ours, which nothing uses. A tensor's name is its module's with .weight or .bias.
"""

from collections.abc import Mapping

from hermes.spec import ModelSpec

__all__ = [
    "BAICHUAN",
    "BIOGPT",
    "BLOOM",
    "CHATGLM",
    "CODEGEN",
    "EXAONE",
    "FALCON",
    "GLM",
    "GLM4",
    "GPT2",
    "GPTJ",
    "GPT_BIGCODE",
    "GPT_NEO",
    "GPT_NEOX",
    "HUNYUAN",
    "INTERNLM2",
    "MPT",
    "NANOCHAT",
    "OPT",
    "OPTIONAL",
    "PERSIMMON",
    "PHI",
    "PHI3",
    "PHI_MSFT",
    "QKV",
    "QWEN",
    "STARCODER2",
    "VAULTGEMMA",
    "choose_falcon",
    "choose_gpt2",
]

OPTIONAL = "transformer."  # prefix of GPT-2's names in some files
QKV = "self_attn.q_proj self_attn.k_proj self_attn.v_proj"

GPT2 = {
    "wte": "model.embed_tokens",
    "wpe": "model.embed_positions",
    "h.{i}.ln_1": "{attention_in}",
    "h.{i}.attn.c_attn*": QKV,
    "h.{i}.attn.c_proj*": "self_attn.o_proj",
    "h.{i}.ln_2": "{ffn_in}",
    "h.{i}.mlp.c_fc*": "mlp.up_proj",
    "h.{i}.mlp.c_proj*": "mlp.down_proj",
    "ln_f": "model.norm",
    "lm_head": "lm_head",
}


def choose_gpt2(spec: ModelSpec) -> Mapping[str, str]:
    """Choose GPT-2's names: without the prefix, transformers 4 takes an untied head for a layer."""
    if spec.embeddings.tie_weights:
        return GPT2
    return {name if name == "lm_head" else OPTIONAL + name: ours for name, ours in GPT2.items()}


def _add_prefix(modules: Mapping[str, str], prefix: str = OPTIONAL) -> dict[str, str]:
    return {name if ours == "lm_head" else prefix + name: ours for name, ours in modules.items()}


# StarCoder 1 has GPT-2's names over ordinary matrices.
GPT_BIGCODE = _add_prefix(
    {name.removesuffix("*"): ours for name, ours in GPT2.items() if "c_attn" not in name}
    | {"h.{i}.attn.c_attn@": QKV}
)
GPT_NEO = _add_prefix(
    {
        **{name: ours for name, ours in GPT2.items() if "*" not in name},
        "h.{i}.attn.attention.q_proj": "self_attn.q_proj",
        "h.{i}.attn.attention.k_proj": "self_attn.k_proj",
        "h.{i}.attn.attention.v_proj": "self_attn.v_proj",
        "h.{i}.attn.attention.out_proj": "self_attn.o_proj",
        "h.{i}.mlp.c_fc": "mlp.up_proj",
        "h.{i}.mlp.c_proj": "mlp.down_proj",
    }
)
_GPTJ_REST = {
    "wte": "model.embed_tokens",
    "h.{i}.ln_1": "{attention_in}",
    "h.{i}.attn.out_proj": "self_attn.o_proj",
    "h.{i}.mlp.fc_in": "mlp.up_proj",
    "h.{i}.mlp.fc_out": "mlp.down_proj",
    "ln_f": "model.norm",
    "lm_head": "lm_head",
}
GPTJ = _add_prefix(
    _GPTJ_REST | {f"h.{{i}}.attn.{name}_proj": f"self_attn.{name}_proj" for name in ("q", "k", "v")}
)
# CodeGen's matrix was made for four devices, each with its queries, values and keys.
CODEGEN = _add_prefix(
    _GPTJ_REST | {"h.{i}.attn.qkv_proj@4": "self_attn.q_proj self_attn.v_proj self_attn.k_proj"}
)
EXAONE = _add_prefix(
    {
        "wte": "model.embed_tokens",
        "h.{i}.ln_1": "{attention_in}",
        **{f"h.{{i}}.attn.attention.{n}_proj": f"self_attn.{n}_proj" for n in ("q", "k", "v")},
        "h.{i}.attn.attention.out_proj": "self_attn.o_proj",
        "h.{i}.ln_2": "{ffn_in}",
        "h.{i}.mlp.c_fc_0": "mlp.gate_proj",
        "h.{i}.mlp.c_fc_1": "mlp.up_proj",
        "h.{i}.mlp.c_proj": "mlp.down_proj",
        "ln_f": "model.norm",
        "lm_head": "lm_head",
    }
)
GPT_NEOX = {
    "gpt_neox.embed_in": "model.embed_tokens",
    "gpt_neox.layers.{i}.input_layernorm": "{attention_in}",
    "gpt_neox.layers.{i}.attention.query_key_value@": QKV,
    "gpt_neox.layers.{i}.attention.dense": "self_attn.o_proj",
    "gpt_neox.layers.{i}.post_attention_layernorm": "{ffn_in}",
    "gpt_neox.layers.{i}.mlp.dense_h_to_4h": "mlp.up_proj",
    "gpt_neox.layers.{i}.mlp.dense_4h_to_h": "mlp.down_proj",
    "gpt_neox.final_layer_norm": "model.norm",
    "embed_out": "lm_head",
}
_FUSED_LIKE_NEOX = {
    "self_attn.query_key_value@": QKV,
    "self_attn.dense": "self_attn.o_proj",
    "mlp.dense_h_to_4h": "mlp.up_proj",
    "mlp.dense_4h_to_h": "mlp.down_proj",
}
BLOOM = _add_prefix(
    {
        "word_embeddings": "model.embed_tokens",
        "word_embeddings_layernorm": "model.embed_norm",
        "h.{i}.input_layernorm": "{attention_in}",
        "h.{i}.self_attention.query_key_value@": QKV,
        "h.{i}.self_attention.dense": "self_attn.o_proj",
        "h.{i}.post_attention_layernorm": "{ffn_in}",
        "h.{i}.mlp.dense_h_to_4h": "mlp.up_proj",
        "h.{i}.mlp.dense_4h_to_h": "mlp.down_proj",
        "ln_f": "model.norm",
        "lm_head": "lm_head",
    }
)
FALCON = {name: ours for name, ours in BLOOM.items() if "embed_norm" not in ours}


def choose_falcon(spec: ModelSpec) -> Mapping[str, str]:
    """Choose Falcon's names: the two norms of a parallel block have others."""
    if not spec.layers[0].parallel or spec.layers[0].shared_norm:
        return FALCON
    changed = {"input_layernorm": "ln_attn", "post_attention_layernorm": "ln_mlp"}
    return {
        ".".join(changed.get(part, part) for part in name.split(".")): ours
        for name, ours in FALCON.items()
    }


MPT = _add_prefix(
    {
        "wte": "model.embed_tokens",
        "blocks.{i}.norm_1": "{attention_in}",
        "blocks.{i}.attn.Wqkv": QKV,
        "blocks.{i}.attn.out_proj": "self_attn.o_proj",
        "blocks.{i}.norm_2": "{ffn_in}",
        "blocks.{i}.ffn.up_proj": "mlp.up_proj",
        "blocks.{i}.ffn.down_proj": "mlp.down_proj",
        "norm_f": "model.norm",
        "lm_head": "lm_head",
    }
)
OPT = {
    "model.decoder.embed_tokens": "model.embed_tokens",
    "model.decoder.embed_positions+2": "model.embed_positions",
    "model.decoder.layers.{i}.self_attn_layer_norm": "{attention_in}",
    **{f"model.decoder.layers.{{i}}.self_attn.{n}_proj": f"self_attn.{n}_proj" for n in "qkv"},
    "model.decoder.layers.{i}.self_attn.out_proj": "self_attn.o_proj",
    "model.decoder.layers.{i}.final_layer_norm": "{ffn_in}",
    "model.decoder.layers.{i}.fc1": "mlp.up_proj",
    "model.decoder.layers.{i}.fc2": "mlp.down_proj",
    "model.decoder.final_layer_norm": "model.norm",
    "lm_head": "lm_head",
}
BIOGPT = {
    name.replace("model.decoder", "biogpt", 1): ours
    for name, ours in OPT.items()
    if "final_layer_norm" not in name and ours != "lm_head"
} | {
    "biogpt.layers.{i}.final_layer_norm": "{ffn_in}",
    "biogpt.layer_norm": "model.norm",
    "output_projection": "lm_head",
}
CHATGLM = {
    "transformer.embedding.word_embeddings": "model.embed_tokens",
    "transformer.encoder.layers.{i}.input_layernorm": "{attention_in}",
    "transformer.encoder.layers.{i}.self_attention.query_key_value": QKV,
    "transformer.encoder.layers.{i}.self_attention.dense": "self_attn.o_proj",
    "transformer.encoder.layers.{i}.post_attention_layernorm": "{ffn_in}",
    "transformer.encoder.layers.{i}.mlp.dense_h_to_4h": "mlp.gate_proj mlp.up_proj",
    "transformer.encoder.layers.{i}.mlp.dense_4h_to_h": "mlp.down_proj",
    "transformer.encoder.final_layernorm": "model.norm",
    "transformer.output_layer": "lm_head",
}
# Qwen 1's second matrix goes through the activation.
QWEN = _add_prefix(
    {
        "wte": "model.embed_tokens",
        "h.{i}.ln_1": "{attention_in}",
        "h.{i}.attn.c_attn": QKV,
        "h.{i}.attn.c_proj": "self_attn.o_proj",
        "h.{i}.ln_2": "{ffn_in}",
        "h.{i}.mlp.w1": "mlp.up_proj",
        "h.{i}.mlp.w2": "mlp.gate_proj",
        "h.{i}.mlp.c_proj": "mlp.down_proj",
        "ln_f": "model.norm",
        "lm_head": "lm_head",
    }
)
# The first files of Phi 1, 1.5 and 2, whose code was in the models' repositories.
PHI_MSFT = {
    "transformer.embd.wte": "model.embed_tokens",
    "transformer.h.{i}.ln": "{attention_in}",
    "transformer.h.{i}.mixer.Wqkv": QKV,
    "transformer.h.{i}.mixer.out_proj": "self_attn.o_proj",
    "transformer.h.{i}.mlp.fc1": "mlp.up_proj",
    "transformer.h.{i}.mlp.fc2": "mlp.down_proj",
    "lm_head.ln": "model.norm",
    "lm_head.linear": "lm_head",
}
# Llama's names, which families with one or two others of their own have besides.
_LLAMA = {
    "model.embed_tokens": "model.embed_tokens",
    "model.layers.{i}.input_layernorm": "{attention_in}",
    **{f"model.layers.{{i}}.self_attn.{n}_proj": f"self_attn.{n}_proj" for n in "qkvo"},
    "model.layers.{i}.post_attention_layernorm": "{ffn_in}",
    **{f"model.layers.{{i}}.mlp.{n}_proj": f"mlp.{n}_proj" for n in ("gate", "up", "down")},
    "model.norm": "model.norm",
    "lm_head": "lm_head",
}
_AT = "model.layers.{i}."


def _change(modules: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    """Replace the modules that make up the same ones of ours as `changes` do."""
    parts = {part for ours in changes.values() for part in ours.split()}
    return {name: ours for name, ours in modules.items() if ours not in parts} | dict(changes)


_GATE_UP = {f"{_AT}mlp.gate_up_proj": "mlp.gate_proj mlp.up_proj"}
GLM = _change(_LLAMA, _GATE_UP)
GLM4 = _change(
    GLM,
    {
        f"{_AT}post_self_attn_layernorm": "{attention_out}",
        f"{_AT}post_mlp_layernorm": "{ffn_out}",
    },
)
VAULTGEMMA = _change(_LLAMA, {f"{_AT}pre_feedforward_layernorm": "{ffn_in}"})
HUNYUAN = _change(
    _LLAMA,
    {
        f"{_AT}self_attn.query_layernorm": "self_attn.q_norm",
        f"{_AT}self_attn.key_layernorm": "self_attn.k_norm",
    },
)
PERSIMMON = _change(
    _LLAMA,
    {
        **{f"{_AT}{name}": ours for name, ours in _FUSED_LIKE_NEOX.items()},
        f"{_AT}self_attn.q_layernorm": "self_attn.q_norm",
        f"{_AT}self_attn.k_layernorm": "self_attn.k_norm",
        "model.final_layernorm": "model.norm",
    },
)
NANOCHAT = _change(_LLAMA, {f"{_AT}mlp.fc1": "mlp.up_proj", f"{_AT}mlp.fc2": "mlp.down_proj"})
PHI3 = _change(GLM, {f"{_AT}self_attn.qkv_proj": QKV})
BAICHUAN = _change(_LLAMA, {f"{_AT}self_attn.W_pack": QKV})
STARCODER2 = _change(_LLAMA, {f"{_AT}mlp.c_fc": "mlp.up_proj", f"{_AT}mlp.c_proj": "mlp.down_proj"})
PHI = _change(
    _LLAMA,
    {
        f"{_AT}self_attn.dense": "self_attn.o_proj",
        f"{_AT}mlp.fc1": "mlp.up_proj",
        f"{_AT}mlp.fc2": "mlp.down_proj",
        "model.final_layernorm": "model.norm",
    },
)
INTERNLM2 = {
    "model.tok_embeddings": "model.embed_tokens",
    f"{_AT}attention_norm": "{attention_in}",
    f"{_AT}attention.wqkv@": QKV,
    f"{_AT}attention.wo": "self_attn.o_proj",
    f"{_AT}ffn_norm": "{ffn_in}",
    f"{_AT}feed_forward.w1": "mlp.gate_proj",
    f"{_AT}feed_forward.w3": "mlp.up_proj",
    f"{_AT}feed_forward.w2": "mlp.down_proj",
    "model.norm": "model.norm",
    "output": "lm_head",
}
