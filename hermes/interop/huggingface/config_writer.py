"""Makes the config.json that transformers, mlx-lm, vLLM and others read beside the weights.

`make_config` is for folders with our own tensor names, `make_converted_config` for what `hermes
convert --to hf` writes. Fields that were renamed between releases of transformers are written under
both names: torch_dtype and dtype, rope_theta with rope_scaling and rope_parameters.
"""

from collections.abc import Sequence
from typing import Any

from hermes.interop.huggingface.families import (
    ARCHITECTURES,
    find_attention_scalar,
    find_common_block,
    find_family,
    find_window_period,
    list_windows,
    name_activation,
)
from hermes.interop.huggingface.rope import write_rope
from hermes.mal import dumps
from hermes.numerics.params import INIT_STD
from hermes.spec import ModelSpec, WholeBlock

__all__ = ["make_config", "make_converted_config"]

Config = dict[str, Any]


def make_config(
    spec: ModelSpec,
    *,
    dtype: str = "float32",
    bos_token_id: int | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
) -> Config:
    """Make the config.json of a folder whose tensors have our names.

    Its class is the smallest one of Hugging Face that computes the same function, else
    HermesForCausalLM with the architecture as MAL text under `mal`. Dropout is written as far as
    the class supports it; it does not change the function.
    """
    ids = _make_token_ids(bos_token_id, eos_token_id, pad_token_id)
    return _make_family_config(spec, find_family(spec), dtype, ids)


def make_converted_config(
    spec: ModelSpec,
    *,
    dtype: str = "float32",
    bos_token_id: int | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
) -> Config:
    """Make the config.json of a folder with Hugging Face's tensor names, GPT-2's included."""
    ids = _make_token_ids(bos_token_id, eos_token_id, pad_token_id)
    return _make_family_config(spec, find_family(spec, renamed=True), dtype, ids)


def _make_token_ids(bos: int | None, eos: int | Sequence[int] | None, pad: int | None) -> Config:
    eos_ids = eos if eos is None or isinstance(eos, int) else list(eos)
    return {"bos_token_id": bos, "eos_token_id": eos_ids, "pad_token_id": pad}


def _make_family_config(spec: ModelSpec, family: str, dtype: str, ids: Config) -> Config:
    config = {"architectures": [ARCHITECTURES[family]], "model_type": family}
    block = find_common_block(spec)
    match family:
        case "hermes":
            config |= _make_hermes(spec)
        case "gpt2":
            assert block is not None
            config |= _make_gpt2(spec, block)
        case "gpt_neox":
            assert block is not None
            config |= _make_gpt_neox(spec, block)
        case _:
            assert block is not None
            config |= _make_llama_like(spec, block, family)
    return {
        **config,
        "vocab_size": spec.vocab_size,
        "initializer_range": INIT_STD,
        "use_cache": True,
        "tie_word_embeddings": spec.embeddings.tie_weights,
        **ids,
        "torch_dtype": dtype,
        "dtype": dtype,
    }


def _make_hermes(spec: ModelSpec) -> Config:
    return {
        "hidden_size": spec.hidden_size,
        "num_hidden_layers": spec.num_layers,
        "max_position_embeddings": spec.max_seq_len,
        "mal": dumps(spec),
    }


def _make_llama_like(spec: ModelSpec, block: WholeBlock, family: str) -> Config:
    attention, ffn = block.attention, block.ffn
    config: Config = {
        "hidden_size": spec.hidden_size,
        "intermediate_size": ffn.hidden_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_size,
        "max_position_embeddings": spec.max_seq_len,
        "rms_norm_eps": float(block.norm_eps),
        "attention_dropout": _find_common_rate([a.dropout for a in spec.attentions]),
        "attention_bias": attention.bias != "none",
        "mlp_bias": ffn.bias,
    }
    config["hidden_activation" if "gemma" in family else "hidden_act"] = name_activation(ffn)
    config |= write_rope(spec, family)
    windows = list_windows(spec)
    window = next((w for w in windows if w is not None), None)
    match family:
        case "mistral":
            config["sliding_window"] = window
        case "qwen2" | "qwen3":
            config |= {
                "use_sliding_window": window is not None,
                "sliding_window": window,
                "max_window_layers": next(
                    (i for i, w in enumerate(windows) if w is not None), spec.num_layers
                ),
                "layer_types": _name_layer_types(windows),
            }
        case "gemma2" | "gemma3_text":
            config |= {
                # Gemma's classes build the sliding mask even if no layer uses it.
                "sliding_window": window or spec.max_seq_len,
                "layer_types": _name_layer_types(windows),
                "query_pre_attn_scalar": find_attention_scalar(attention),
                "attn_logit_softcapping": attention.softcap,
                "final_logit_softcapping": spec.output.softcap,
            }
            if family == "gemma3_text":
                config["sliding_window_pattern"] = find_window_period(windows)
    return config


def _make_gpt2(spec: ModelSpec, block: WholeBlock) -> Config:
    return {
        "n_positions": spec.learned_positions,
        "n_ctx": spec.learned_positions,  # dropped by transformers, required by mlx-lm
        "n_embd": spec.hidden_size,
        "n_layer": spec.num_layers,
        "n_head": block.attention.num_heads,
        "n_inner": block.ffn.hidden_size,
        "activation_function": name_activation(block.ffn, "gelu_new"),
        "attn_pdrop": _find_common_rate([a.dropout for a in spec.attentions]),
        "resid_pdrop": _find_common_rate([layer.dropout for layer in spec.layers]),
        "embd_pdrop": spec.embeddings.dropout,
        "layer_norm_epsilon": float(block.norm_eps),
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
    }


def _make_gpt_neox(spec: ModelSpec, block: WholeBlock) -> Config:
    return {
        "hidden_size": spec.hidden_size,
        "intermediate_size": block.ffn.hidden_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": block.attention.num_heads,
        "hidden_act": name_activation(block.ffn),
        "max_position_embeddings": spec.max_seq_len,
        **write_rope(spec, "gpt_neox"),
        "attention_bias": block.attention.bias == "all",
        "attention_dropout": _find_common_rate([a.dropout for a in spec.attentions]),
        "hidden_dropout": _find_common_rate([layer.dropout for layer in spec.layers]),
        "layer_norm_eps": float(block.norm_eps),
        "use_parallel_residual": block.parallel,
    }


def _find_common_rate(rates: Sequence[float]) -> float:
    """Find the dropout rate of all layers; 0 if they differ, as the classes have only one."""
    return rates[0] if len(set(rates)) == 1 else 0.0


def _name_layer_types(windows: Sequence[int | None]) -> list[str]:
    return ["full_attention" if w is None else "sliding_attention" for w in windows]
