"""Which other tools open a model's folder, and whether they compute what hermes does.

What each reader does was found by running it on small random models; the tests run them again.
Measured with transformers 4.57.6 and 5.23.0, mlx-lm 0.32.2.
"""

import math

import ml_dtypes
import numpy as np

from hermes.interop.families import (
    common_block,
    family_of,
    ropes_of,
    window_period,
    windows_of,
)
from hermes.spec import BlockSpec, LinearScaling, ModelSpec, Rope

__all__ = ["EXACT", "NOT_EXPRESSIBLE", "READERS", "readers", "verdicts"]

READERS = ("transformers 4.57", "transformers 5", "mlx-lm")
EXACT, NOT_EXPRESSIBLE = "exact", "not expressible"


def readers(spec: ModelSpec, *, converted: bool = False) -> list[tuple[str, str]]:
    """Each reader with 'exact', 'inexact because ...' or 'not expressible'.

    Of a checkpoint as hermes writes it; converted: of what `hermes convert --to hf` makes of it.
    """
    family = family_of(spec, renamed=converted)
    block = common_block(spec)
    if family == "hermes" or block is None:
        return [(reader, NOT_EXPRESSIBLE) for reader in READERS]
    verdicts = (_transformers_4(spec, block, family), EXACT, _mlx_lm(spec, block, family))
    return list(zip(READERS, verdicts, strict=True))


def verdicts(spec: ModelSpec, *, converted: bool = False) -> dict[str, str]:
    """The same with hermes at the end, which reads what it writes."""
    return dict(readers(spec, converted=converted)) | {"hermes": EXACT}


def _inexact(reason: str) -> str:
    return f"inexact because {reason}"


def _transformers_4(spec: ModelSpec, block: BlockSpec, family: str) -> str:
    if block.attention.softcap is not None:
        return _inexact(
            "its default attention drops the soft cap; load with attn_implementation='eager'"
        )
    match ropes_of(spec)[0]:
        case Rope(scaling=LinearScaling(factor)) if family == "olmo2" and factor > 1:
            return EXACT
        case Rope(scaling=scaling) if family == "olmo2" and scaling is not None:
            return NOT_EXPRESSIBLE
    return EXACT


def _mlx_lm(spec: ModelSpec, block: BlockSpec, family: str) -> str:
    if not _mlx_lm_has(spec, block, family):
        return NOT_EXPRESSIBLE
    reason = _mlx_lm_ignores(spec, block, family)
    return _inexact(reason) if reason else EXACT


def _mlx_lm_has(spec: ModelSpec, block: BlockSpec, family: str) -> bool:
    """Whether its class of this family has the tensors at all, and starts."""
    attention, tied = block.attention, spec.embeddings.tie_weights
    wide = block.ffn.hidden_size == 4 * spec.hidden_size
    match family:
        case "qwen2":
            return attention.head_size * attention.num_heads == spec.hidden_size
        case "qwen3":
            return attention.bias == "none"
        case "gemma2":
            capped = attention.softcap is not None and spec.output.softcap is not None
            return capped and tied and attention.bias == "none"
        case "gemma3_text":
            # With sliding layers alone it looks for the cache of a layer that is not there.
            windows = windows_of(spec)
            periodic = window_period(windows) is not None and None in windows
            return attention.bias == "none" and periodic
        case "gpt2":
            return tied and wide
        case "gpt_neox":
            return not tied and wide and attention.bias == "all"
    return True


def _mlx_lm_ignores(spec: ModelSpec, block: BlockSpec, family: str) -> str | None:
    """What it does not read of config.json, first thing first."""
    windows = windows_of(spec)
    short = any(window is not None and window < spec.max_seq_len for window in windows)
    rope = ropes_of(spec)[0]
    scaled = isinstance(rope, Rope) and rope.scaling is not None
    function = "gelu_tanh" if family.startswith(("gemma", "gpt")) else "silu"
    if block.ffn.function != function:
        return f"it computes {function} where the model has {block.ffn.function}"
    if family in ("mistral", "qwen2", "qwen3", "gemma2") and short:
        return f"it ignores the window of {min(w for w in windows if w)}"
    if family in ("gemma2", "gpt_neox") and scaled:
        return "it ignores the scaling of rope"
    if family == "gemma3_text":
        return _gemma3_differs(spec)
    return None


def _gemma3_differs(spec: ModelSpec) -> str | None:
    if spec.output.softcap is not None:
        return "it ignores the soft cap of the logits"
    root = math.sqrt(spec.hidden_size)
    if float(np.asarray(root).astype(ml_dtypes.bfloat16)) != root:
        return f"it rounds the embeddings' scale {root:.6g} to bfloat16"
    return None
