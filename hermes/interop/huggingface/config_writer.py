"""Makes the config.json that transformers, mlx-lm, vLLM and others read beside the weights.

`make_config` is for folders with our own tensor names, `make_converted_config` for what `hermes
convert --to hf` writes. Fields that were renamed between releases of transformers are written under
both names: torch_dtype and dtype, rope_theta with rope_scaling and rope_parameters.
"""

from collections.abc import Sequence

from hermes.interop.huggingface.families import ARCHITECTURES, FAMILIES, HERMES, find_family
from hermes.interop.huggingface.parts import Config
from hermes.mal import dumps
from hermes.numerics.params import INIT_STD
from hermes.spec import ModelSpec

__all__ = ["make_config", "make_converted_config"]


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
    own = _make_hermes(spec) if family == HERMES else FAMILIES[family].write(spec)
    return {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        **own,
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
