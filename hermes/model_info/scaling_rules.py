"""How large a model, batch and learning rate suit a size and a number of tokens.

Each rule names its source. They are fits and habits of the field: where to begin, not what is best
for a given text.
"""

import math
from dataclasses import dataclass

from hermes import mal
from hermes.errors import HermesError
from hermes.numerics.params import count_parameters, list_parameters
from hermes.spec import ModelSpec

__all__ = [
    "BASE",
    "Shape",
    "choose_batch_tokens",
    "choose_learning_rate",
    "choose_shape",
    "choose_tokens",
    "choose_warmup_steps",
    "count_budget",
    "make_shape",
    "make_spec",
    "read_count",
]

BASE = "llama-22m"  # the bundled model whose sizes a shape replaces
ASPECT = 64  # width of a layer of depth: nanochat, scripts/base_train.py, --aspect-ratio
TOKENS_PER_PARAMETER = 20
UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
DEEPEST, WIDEST = 64, 8192
NEAREST = 1.3  # at most this factor off
SMALLEST_BUDGET = 1e17  # FLOPs; below it DeepSeek's fit of learning rates has no runs


@dataclass(frozen=True)
class Shape:
    """The sizes of a model of LLaMA's kind."""

    depth: int
    width: int
    heads: int
    kv_heads: int
    ffn: int
    tied: bool
    vocab_size: int
    max_seq_len: int

    def list_edits(self) -> dict[str, str]:
        """The sizes as edits of the model BASE, as `--set model.KEY=VALUE` has them."""
        return {
            "num_layers": str(self.depth),
            "hidden_size": str(self.width),
            "block.attention.num_heads": str(self.heads),
            "block.attention.num_kv_heads": str(self.kv_heads),
            "block.ffn.hidden_dim": str(self.ffn),
            "embeddings.tie_weights": "true" if self.tied else "false",
            "vocab_size": str(self.vocab_size),
            "max_seq_len": str(self.max_seq_len),
        }


def make_spec(shape: Shape) -> ModelSpec:
    """The model of a shape."""
    return mal.edit_all(mal.load(BASE), shape.list_edits())


def read_count(name: str, value: str | float) -> int:
    """Read a count such as 100M, 1.5B, 2e9 or 4000. Raises HermesError."""
    text = str(value).strip().lower().replace(",", "").replace("_", "")
    unit = text[-1:] if text[-1:] in UNITS else ""
    try:
        count = float(text.removesuffix(unit)) * UNITS[unit]
    except ValueError:
        count = math.nan
    if not 1 <= count < 1e18:
        raise HermesError(f"{name} is {value!r}; expected a count above 0, such as 100M or 2e9")
    return round(count)


def choose_shape(depth: int, width: int, tied: bool, vocab_size: int, max_seq_len: int) -> Shape:
    """The shape of a depth and a width, which is a multiple of 64.

    Heads of 64, from a width of 2,048 on of 128, as LLaMA's small and large models have them. Each
    key and value head serves three to eight query heads (Ainslie et al. 2023, GQA,
    arXiv:2305.13245), where their number allows it. The feed-forward network is 8/3 as wide, up to
    a multiple of 64: three matrices of it have the size of two of 4 (Shazeer 2020,
    arXiv:2002.05202, section 2).
    """
    size = 128 if width >= 2048 and width % 128 == 0 else 64
    heads = width // size
    per_kv = next((n for n in (4, 3, 5, 6, 8, 2) if heads % n == 0 and heads > n), 1)
    ffn = 64 * math.ceil(width * 8 / 3 / 64)
    return Shape(depth, width, heads, heads // per_kv, ffn, tied, vocab_size, max_seq_len)


def _find_shape(params: int, vocab_size: int, max_seq_len: int) -> Shape:
    """The shape of about so many parameters whose width is near to 64 times its depth.

    Below a billion the head is the embeddings: of such a model they would be a large part (Liu et
    al. 2024, MobileLLM, arXiv:2402.14905, section 2.2). Raises HermesError where nothing is within
    30 % of what is asked for.
    """
    tied = params < 10**9
    best: tuple[float, Shape] | None = None
    for depth in range(1, DEEPEST + 1):
        low, high = ASPECT * depth // 2, min(2 * ASPECT * depth, WIDEST)
        for width in range(64 * math.ceil(low / 64), high + 1, 64):
            shape = choose_shape(depth, width, tied, vocab_size, max_seq_len)
            if shape.heads == shape.kv_heads > 2:
                continue  # a prime number of heads, which no few of keys and values can serve
            off = abs(math.log(_count_parameters(shape) / params))
            slant = abs(math.log(width / (ASPECT * depth)))
            cost = off + 0.2 * slant
            if off <= math.log(NEAREST) and (best is None or cost < best[0]):
                best = cost, shape
    if best is None:
        raise HermesError(
            f"no model near {params:,} parameters has a vocabulary of {vocab_size:,}; choose other "
            "--params or --vocab-size"
        )
    return best[1]


def _count_parameters(shape: Shape) -> int:
    """Count them without making the model: thousands of shapes are looked at."""
    C, size = shape.width, shape.width // shape.heads
    layer = 2 * C * C + 2 * C * shape.kv_heads * size + 3 * C * shape.ffn + 2 * C
    return shape.depth * layer + (1 if shape.tied else 2) * shape.vocab_size * C + C


def make_shape(params: int | None, depth: int | None, vocab_size: int, max_seq_len: int) -> Shape:
    """The shape of so many parameters, or of a depth, which is the one dial of all sizes.

    Raises HermesError.
    """
    if params is not None:
        return _find_shape(params, vocab_size, max_seq_len)
    assert depth is not None, "one of both is given"
    if not 1 <= depth <= DEEPEST:
        raise HermesError(f"depth must be from 1 to {DEEPEST}, got {depth}")
    shape = choose_shape(depth, ASPECT * depth, True, vocab_size, max_seq_len)
    if _count_parameters(shape) >= 10**9:
        shape = choose_shape(depth, ASPECT * depth, False, vocab_size, max_seq_len)
    return shape


def choose_tokens(spec: ModelSpec) -> int:
    """Tokens of a run of the least loss for its arithmetic: 20 for each parameter.

    Source: Hoffmann et al. 2022, Chinchilla, arXiv:2203.15556, table 3. More make a better model of
    the same size, with more arithmetic.
    """
    return TOKENS_PER_PARAMETER * count_parameters(spec)


def count_budget(spec: ModelSpec, seq_len: int, tokens: int) -> float:
    """FLOPs of a run as DeepSeek's rules count them: without the vocabulary, with full attention.

    C = M D for D tokens; M = 6 (weights of all layers) + 12 (layers) (width of heads) T. Source: Bi
    et al. 2024, DeepSeek LLM, arXiv:2401.02954, section 3.2.
    """
    table = list_parameters(spec).values()
    weights = sum(t.size for t in table if t.part in ("attention", "ffn") and len(t.shape) > 1)
    attention = sum(a.num_heads * (a.head_size + a.value_size) // 2 for a in spec.attentions)
    return float(6 * weights + 12 * attention * seq_len) * tokens


def choose_learning_rate(budget: float) -> float:
    """The peak learning rate of AdamW: 0.3118 C^-0.1250, to three digits.

    Of less than 10^17 FLOPs, where nothing was fitted, it is that of 10^17: 0.0023. Source: Bi et
    al. 2024, DeepSeek LLM, arXiv:2401.02954, section 3.1. Muon's steps are scaled to AdamW's, so
    it has the same (Liu et al. 2025, arXiv:2502.16982, section 2.2).
    """
    return float(f"{0.3118 * max(budget, SMALLEST_BUDGET) ** -0.125:.3g}")


def choose_batch_tokens(budget: float) -> float:
    """Tokens of an optimizer step: 0.2920 C^0.3271.

    Source: Bi et al. 2024, DeepSeek LLM, arXiv:2401.02954, section 3.1.
    """
    return float(0.2920 * budget**0.3271)


def choose_warmup_steps(steps: int) -> int:
    """2,000 steps as DeepSeek LLM (section 2.3) has them, of a shorter run a fiftieth."""
    return min(2000, max(1, steps // 50))
