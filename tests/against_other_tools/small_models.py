"""Published configurations, shrunk to models of a few thousand numbers."""

import json
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("configurations.json")
CONFIGURATIONS = {
    entry["name"]: entry["config"] for entry in json.loads(FILE.read_text(encoding="utf-8"))
}
# Of the tokenizer of tests.finetuning.support, which every model has.
VOCABULARY, WIDTH, HEADS, LENGTH, WINDOW = 300, 32, 4, 64, 5
PROMPT = "the cat sat on the mat; 1, 2, 3, 5, 8: \u00e9t\u00e9"

# Fields of sizes, under every family's name for them, and what they become.
_SMALL = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "n_embed", "word_embed_proj_dim"), WIDTH),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), LENGTH),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "n_heads"), HEADS),
    **dict.fromkeys(("sliding_window", "window_size"), WINDOW),
    "seq_length": LENGTH,
    "vocab_size": VOCABULARY,
    "padded_vocab_size": VOCABULARY,
    "multi_query_group_num": 2,
    "model_max_length": LENGTH,
    "rotary_dim": 4,
    "kv_channels": WIDTH // HEADS,
    "original_max_position_embeddings": 16,
    "query_pre_attn_scalar": 20,
    "eos_token_id": 2,
    "bos_token_id": 1,
    "pad_token_id": 0,
    "torch_dtype": "float32",
    "dtype": "float32",
}
# The part for pictures, which is not compared.
_PICTURES = {
    **{"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 8},
    **{"num_attention_heads": 4, "image_size": 56, "patch_size": 14, "projection_dim": 32},
}
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_KEYS = ("num_key_value_heads", "num_kv_heads")
_PER_LAYER = ("layer_types", "no_rope_layers", "attention_layers")


def find(config, names):
    return next((config[name] for name in names if config.get(name) is not None), None)


def shrink(config):
    """The configuration with small sizes: what it says of anything else stays as it is."""
    if isinstance(config.get("text_config"), dict):
        seen = {"vision_config": {**config["vision_config"], **_PICTURES}}
        ids = {name: _SMALL[name] for name in ("pad_token_id",) if name in config}
        return {**config, **seen, **ids, "text_config": shrink(config["text_config"])}
    small = {k: _SMALL[k] if k in _SMALL and v is not None else v for k, v in config.items()}
    heads = find(config, ("num_attention_heads", "n_head", "num_heads", "n_heads"))
    width = find(config, ("hidden_size", "n_embd", "d_model", "n_embed"))
    layers = 6 if config.get("model_type") == "gemma3_text" else 4
    if config.get("model_type") == "baichuan" and config["vocab_size"] == 125_696:
        small["vocab_size"] = config["vocab_size"]  # which tells the second from the first
    for name in _LAYERS:
        if name in small:
            small[name] = layers
    for name in _PER_LAYER:
        if isinstance(small.get(name), list):
            small[name] = small[name][:layers]
    if small.get("attention_types"):
        small["attention_types"] = [[["global", "local"], layers // 2]]
    if "max_window_layers" in small:
        small["max_window_layers"] = min(small["max_window_layers"], layers)
    if int(config.get("partial_rotary_factor", 1.0) * WIDTH // HEADS) % 2:
        small["hidden_size"] = 80  # an even number of a head of 20 turns
    for name in _KEYS:
        if small.get(name) is not None:
            small[name] = HEADS if small[name] == heads else 1 if small[name] == 1 else 2
    if small.get("head_dim") is not None:
        small["head_dim"] = WIDTH // HEADS if config["head_dim"] * heads == width else 12
    if (
        config.get("model_type") in ("gemma3", "gemma3_text")
        and "num_attention_heads" not in config
    ):
        small |= {"num_attention_heads": HEADS, "num_key_value_heads": 2, "head_dim": 12}
        small |= {"vocab_size": VOCABULARY, "max_position_embeddings": LENGTH}
        small |= {"query_pre_attn_scalar": 20}
    if config.get("model_type") == "llama" and "hidden_size" not in config:
        small |= {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": layers}
        small |= {"num_attention_heads": HEADS}
    for name in ("rope_scaling", "rope_parameters"):
        if isinstance(small.get(name), dict):
            small[name] = shrink_scaling(small[name], small)
    return small


def shrink_scaling(scaling, config):
    """Scaling of RoPE as in the configuration, over fewer positions and pairs."""
    small = {k: _SMALL.get(k, v) for k, v in scaling.items()}
    size = config.get("head_dim") or WIDTH // HEADS
    pairs = int(size * config.get("partial_rotary_factor", 1.0)) // 2
    for name in ("short_factor", "long_factor"):
        if name in small:
            small[name] = [small[name][0] + 0.5 * i for i in range(pairs)]
    return small


def randomize(model, torch):
    """Make every tensor loud, so that all parts of the model show in its logits."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * (0.2 if weight.ndim > 1 else 0.3))
    return model.eval()


TOKENS = np.random.default_rng(0).integers(3, VOCABULARY, (2, 24))
