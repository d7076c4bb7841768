"""How tokens are sampled: the settings, and the order in which they act.

What each does is in `token_history` (what depends on the tokens so far) and in `filters`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from hermes.arguments import convert_fields, convert_value
from hermes.errors import HermesError

__all__ = ["GREEDY", "Sampling"]

# The last token that may be banned by itself: greater ids are no mistake of the caller alone.
LARGEST_ID = 2**31


@dataclass(frozen=True)
class Sampling:
    """How the next token is sampled. Each setting acts on what the ones before it left.

    1. logit_bias: added to the logits of these ids.
    2. repetition_penalty r: a logit of a token of the prompt or the text is divided by r if it is
       positive, and multiplied by r otherwise (1: none).
    3. frequency_penalty times how often the text, without the prompt, has a token is subtracted
       from its logit, and presence_penalty if it has it (0: none).
    4. dry_multiplier dry_base^(n - dry_allowed_length) is subtracted from the logit of a token that
       would prolong a repetition of n tokens, n >= dry_allowed_length (multiplier 0: none). No
       repetition crosses a token of dry_breakers, or begins before the last dry_range tokens (0:
       all).
    5. no_repeat_ngram n: a token that would repeat n tokens in a row is out (0: none).
    6. banned: sequences of ids whose last id is out after the others.
    7. min_tokens: no token ends the text before it has as many.
    8. temperature divides the logits; 0 takes the most probable token, and skips what follows.
    9. top_k: the k most probable tokens stay (0: all), the lower ids of equals.
    10. top_p: the fewest most probable tokens whose probabilities sum to p (1: all).
    11. min_p: tokens at least p times as probable as the most probable one (0: all).
    12. typical_p: the fewest tokens whose probabilities sum to p, those first whose surprise is
        nearest to the entropy (1: all).
    13. xtc_probability: how often, where several tokens have a probability of xtc_threshold or
        more, only the least probable of them stays (0: never). A token that ends a text stays.

    Steps 1, 2, 5 to 12 are in the order, and do what the logits processors do, of Hugging Face
    transformers. Raises HermesError. Sources: Keskar et al. 2019, CTRL, arXiv:1909.05858 (2);
    Holtzman et al. 2020, arXiv:1904.09751 (10); Nguyen et al. 2024, arXiv:2407.01082 (11); Meister
    et al. 2022, arXiv:2202.00666 (12); DRY and XTC are p-e-w's, in text-generation-webui.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram: int = 0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_range: int = 0
    dry_breakers: tuple[int, ...] = ()
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    min_tokens: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    banned: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        convert_fields(self)
        for name in AT_LEAST_0:
            if not 0 <= getattr(self, name) < math.inf:
                raise HermesError(f"{name} must be at least 0, got {getattr(self, name)!r}")
        for name in ABOVE_0_TO_1:
            if not 0 < getattr(self, name) <= 1:
                raise HermesError(
                    f"{name} must be above 0 and at most 1, got {getattr(self, name)!r}"
                )
        for name in FROM_0_TO_1:
            if not 0 <= getattr(self, name) <= 1:
                raise HermesError(f"{name} must be from 0 to 1, got {getattr(self, name)!r}")
        for name in FROM_MINUS_2_TO_2:
            if not -2 <= getattr(self, name) <= 2:
                raise HermesError(f"{name} must be from -2 to 2, got {getattr(self, name)!r}")
        if not 0 < self.repetition_penalty < math.inf:
            raise HermesError(
                f"repetition_penalty must be above 0, got {self.repetition_penalty!r}"
            )
        if not 1 <= self.dry_base < math.inf:
            raise HermesError(f"dry_base must be at least 1, got {self.dry_base!r}")
        if self.dry_allowed_length < 1:
            raise HermesError(
                f"dry_allowed_length must be at least 1, got {self.dry_allowed_length!r}"
            )
        if not all(self.banned):
            raise HermesError("banned has a sequence without a token")
        self._check_bias()

    def _check_bias(self) -> None:
        bias = {}
        for token, value in self.logit_bias.items():
            number = convert_value("a token of logit_bias", token, int)
            bias[number] = convert_value(f"logit_bias of token {token}", value, float)
            if not math.isfinite(bias[number]) or not 0 <= number < LARGEST_ID:
                raise HermesError(
                    f"logit_bias must give numbers to ids from 0 on, got {token!r}: {value!r}"
                )
        object.__setattr__(self, "logit_bias", bias)


AT_LEAST_0 = (
    *("temperature", "top_k", "no_repeat_ngram", "dry_multiplier", "dry_range", "min_tokens"),
)
ABOVE_0_TO_1 = ("top_p", "typical_p")
FROM_0_TO_1 = ("min_p", "xtc_probability", "xtc_threshold")
FROM_MINUS_2_TO_2 = ("presence_penalty", "frequency_penalty")  # as OpenAI's API has it

GREEDY = Sampling(temperature=0.0)
