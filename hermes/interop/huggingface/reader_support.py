"""Which other tools load a model's folder, and whether they compute the same logits as hermes.

Measured by running each on small random models, which the tests repeat: transformers 4.57.6 and
5.23.0, mlx-lm 0.32.2.
"""

import math

from hermes.interop.huggingface.families import find_family
from hermes.interop.huggingface.inexpressible import explain_inexpressible
from hermes.interop.huggingface.layers import (
    find_common_block,
    find_window_period,
    list_positions,
    list_windows,
)
from hermes.spec import Alibi, LinearScaling, ModelSpec, Rope, WholeBlock

__all__ = ["EXACT", "NOT_EXPRESSIBLE", "READERS", "UNTESTED", "judge_all_readers", "judge_readers"]

READERS = ("transformers 4.57", "transformers 5", "mlx-lm")
EXACT, NOT_EXPRESSIBLE = "exact", "not expressible"
UNTESTED = "not tested: this release has not been run on this class"
TESTED_IN_4 = (
    *("llama", "mistral", "qwen2", "qwen3", "olmo2", "gemma2", "gemma3_text", "gpt2", "gpt_neox"),
)
# Classes that mlx-lm has no module for (that of olmo needs a package of its own), and the function
# of the feed-forward network in those where
# it is not silu, whatever config.json says.
NOT_IN_MLX_LM = (
    "ministral",
    "arcee",
    "opt",
    "codegen",
    "gpt_neo",
    "falcon",
    "bloom",
    "mpt",
    "olmo",
    "vaultgemma",
    "biogpt",
    "persimmon",
)
FUNCTIONS = {
    "nemotron": "relu2",
    **dict.fromkeys(("gemma", "gpt_bigcode", "starcoder2"), "gelu"),
    **dict.fromkeys(("gemma2", "gemma3_text", "gpt2", "gpt_neox", "phi", "gptj"), "gelu_tanh"),
}
NO_WINDOWS = ("mistral", "qwen2", "qwen3", "gemma2", "phi3", "starcoder2")


def judge_readers(spec: ModelSpec, *, converted: bool = False) -> list[tuple[str, str]]:
    """Judge every other reader: 'exact', 'inexact because ...' or 'not expressible: ...'.

    converted: of the folder that `hermes convert --to hf` writes, instead of a checkpoint.
    """
    family = find_family(spec, renamed=converted)
    block = find_common_block(spec)
    if family == "hermes" or block is None:
        verdict = _describe_inexpressible(_explain_no_class(spec))
        return [(reader, verdict) for reader in READERS]
    verdicts = (
        _judge_transformers_4(spec, block, family),
        _judge_transformers_5(spec, block, family),
        _judge_mlx_lm(spec, block, family),
    )
    return list(zip(READERS, verdicts, strict=True))


def judge_all_readers(
    spec: ModelSpec, *, converted: bool = False, text: str = ""
) -> dict[str, str]:
    """Judge every reader, hermes included, which reads what it writes.

    text: why hermes can do nothing with text, where it cannot.
    """
    own = f"weights exact; text: {text}" if text else EXACT
    return dict(judge_readers(spec, converted=converted)) | {"hermes": own}


def _describe_inexact(reason: str) -> str:
    return f"inexact because {reason}"


def _describe_inexpressible(reason: str) -> str:
    return f"{NOT_EXPRESSIBLE}: {reason}"


def _explain_no_class(spec: ModelSpec) -> str:
    if find_family(spec, renamed=True) != "hermes":
        return "tensors have other names there; convert --to hf gives them"
    return explain_inexpressible(spec)


def _judge_transformers_4(spec: ModelSpec, block: WholeBlock, family: str) -> str:
    if family not in TESTED_IN_4:
        return UNTESTED
    if block.attention.softcap is not None:
        return _describe_inexact(
            "its default attention drops the soft cap; load with attn_implementation='eager'"
        )
    match list_positions(spec)[0]:
        case Rope(scaling=LinearScaling(factor)) if family == "olmo2" and factor > 1:
            return EXACT
        case Rope(scaling=scaling) if family == "olmo2" and scaling is not None:
            return _describe_inexpressible("its olmo2 scales rope only linearly, by more than 1")
    return EXACT


def _judge_transformers_5(spec: ModelSpec, block: WholeBlock, family: str) -> str:
    has_alibi = any(isinstance(positions, Alibi) for positions in list_positions(spec))
    # Up to these, slopes and distances are numbers of bfloat16.
    if (
        family == "falcon"
        and has_alibi
        and (block.attention.num_heads > 8 or spec.max_seq_len > 256)
    ):
        return _describe_inexact(
            "it rounds alibi to bfloat16; its attn_implementation='eager' adds alibi twice"
        )
    return EXACT


def _judge_mlx_lm(spec: ModelSpec, block: WholeBlock, family: str) -> str:
    if lacking := _find_mlx_lm_gap(spec, block, family):
        return _describe_inexpressible(lacking)
    reason = _find_mlx_lm_difference(spec, block, family)
    return _describe_inexact(reason) if reason else EXACT


def _find_mlx_lm_gap(spec: ModelSpec, block: WholeBlock, family: str) -> str | None:
    """Find why mlx-lm's class of this family lacks tensors of the model or does not start."""
    attention, tied = block.attention, spec.embeddings.tie_weights
    wide = block.ffn.hidden_size == 4 * spec.hidden_size
    own = family in ("qwen3", "gemma2", "gemma3_text") and attention.bias != "none"
    windows = list_windows(spec)
    wants = [
        (family in NOT_IN_MLX_LM, f"it has no class for {family}"),
        (family == "nanochat", "its tensors have other names there"),
        (family in ("olmo3", "smollm3") and None not in windows,
         "it needs a layer without a window"),
        (family == "cohere2" and not _can_mlx_lm_start_periods(spec),
         "it needs a layer without a window after every n with one"),
        (family == "qwen2" and attention.head_size * attention.num_heads != spec.hidden_size,
         "its heads make up the hidden size"),
        (own, "it has no attention.bias"),
        (family == "gemma2" and None in (attention.softcap, spec.output.softcap),
         "it always has both soft caps"),
        (family == "gemma2" and not tied, "its head is always tied"),
        (family == "gemma3_text" and not _can_mlx_lm_start_periods(spec),
         "it needs a layer without a window after every n with one"),
        (family == "gpt2" and not tied, "its head is always tied"),
        (family == "gpt_neox" and tied, "its head is never tied"),
        (family in ("gpt2", "gpt_neox") and not wide, "its ffn.hidden_dim is 4 hidden sizes"),
        (family == "gpt_neox" and attention.bias != "all", "its attention.bias is always all"),
    ]  # fmt: skip
    return next((reason for lacks, reason in wants if lacks), None)


def _can_mlx_lm_start_periods(spec: ModelSpec) -> bool:
    # Without a full layer, mlx-lm looks up the cache of a layer that does not exist.
    windows = list_windows(spec)
    return find_window_period(windows) is not None and None in windows


def _find_mlx_lm_difference(spec: ModelSpec, block: WholeBlock, family: str) -> str | None:
    """Find the first field of config.json that mlx-lm ignores and that changes the function."""
    windows = list_windows(spec)
    short = any(window is not None and window < spec.max_seq_len for window in windows)
    rope = list_positions(spec)[0]
    scaled = isinstance(rope, Rope) and rope.scaling is not None
    function = FUNCTIONS.get(family, "silu")
    if block.ffn.function != function:
        return f"it computes {function} where the model has {block.ffn.function}"
    if family == "glm" and isinstance(rope, Rope) and rope.rotary_dim is not None:
        return "it rotates whole heads"
    if family in NO_WINDOWS and short:
        return f"it ignores the window of {min(w for w in windows if w)}"
    if family in ("gemma2", "gpt_neox") and scaled:
        return "it ignores the scaling of rope"
    if family == "gemma3_text":
        return _find_gemma3_difference(spec)
    return None


def _find_gemma3_difference(spec: ModelSpec) -> str | None:
    if spec.output.softcap is not None:
        return "it ignores the soft cap of the logits"
    import ml_dtypes  # with NumPy, which few need who ask who reads a model
    import numpy as np

    root = math.sqrt(spec.hidden_size)
    if float(np.asarray(root).astype(ml_dtypes.bfloat16)) != root:
        return f"it rounds the embeddings' scale {root:.6g} to bfloat16"
    return None
