"""A model as lm-evaluation-harness asks it: likelihoods of texts, and texts that follow others.

What is counted where is what the harness's own `hf` model does, so that scores compare: BOS stands
before a text where the tokenizer puts one, but not before a text that spells it; names of special
tokens in a text are those tokens; spaces that end a context belong to the continuation; what is too
long loses its beginning; and a text without a context follows BOS, else the end-of-text token.
Otherwise than there, a post-processor of the tokenizer never ends a text with EOS, the tokens that
end a turn end a generated text besides EOS, and what is sampled is a function of the request, on
every backend.

Importing it needs the extra `tasks`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import log
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from numpy.typing import NDArray

from hermes.chat_templates.sandbox import CLOSE, OPEN
from hermes.chat_templates.template import Template
from hermes.errors import HermesError
from hermes.inference.batch_generation import run_requests
from hermes.inference.request import Request
from hermes.inference.sampling import Sampling
from hermes.interface import IGNORE
from hermes.model import Model
from hermes.stages import report_stage

__all__ = ["HarnessModel"]

DEFAULT_TOKENS = 256  # of a generated text, where the task does not say
LOGITS = 1 << 26  # numbers that are read from the device at once
MARGIN = 1e-3  # nats, far more than the rounding of a log-probability
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
# What a task may say of sampling, by the names that it has there and here.
SAMPLING = ("top_k", "top_p", "min_p", "typical_p", "repetition_penalty")

# Ids of a context and of its continuation.
Pair = tuple[list[int], list[int]]


class HarnessModel(TemplateLM):  # type: ignore[misc]  # without types where it is not installed
    """A loaded model, asked in batches of up to batch_size texts.

    template: what the harness's chats are written with; None where it asks for none. go_on: called
    before each batch.
    """

    def __init__(
        self,
        model: Model,
        batch_size: int = 32,
        template: Template | None = None,
        go_on: Callable[[], None] = lambda: None,
    ):
        super().__init__()
        if batch_size < 1:
            raise HermesError(f"--batch-size must be at least 1, got {batch_size}")
        self._model, self._batch_size, self._template = model, batch_size, template
        self._tokens, self._go_on = model.tokenizer, go_on
        self._max_length = model.spec.max_seq_len

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text, else the one that begins it. Raises HermesError."""
        found = self._tokens.bos_id if self._tokens.eos_id is None else self._tokens.eos_id
        if found is None:
            raise HermesError(
                "tasks need a token that begins or ends a text, and the tokenizer has none; name "
                "one with --eos"
            )
        return found

    @property
    def prefix_token_id(self) -> int:
        """The token that a text without a context follows. Raises HermesError."""
        return self.eot_token_id if self._tokens.bos_id is None else self._tokens.bos_id

    @property
    def tokenizer_name(self) -> str:
        """What tells this tokenizer and template from others in the harness's caches."""
        template = self._template.source if self._template else ""
        return f"{self._tokens.fingerprint}-{template}"

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Encode a text, behind BOS where the tokenizer puts it and the text does not spell it."""
        begin = self._tokens.beginning
        if add_special_tokens is None and begin:
            prefix = self._tokens.decode([self.prefix_token_id], skip_special=False)
            add_special_tokens = not string.startswith(prefix)
        ids = self._tokens.encode(string, special=True)
        return begin + ids if add_special_tokens else ids

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Log-likelihoods of continuations, and whether each is the most likely, in nats."""
        found: list[tuple[float, bool]] = super().loglikelihood(list(requests), disable_tqdm=True)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        scored = self._score(pairs, "scoring answers", decide_greedy=True)
        return [(total, greedy) for total, greedy in scored]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = True
    ) -> list[float]:
        """Log-likelihood of each text, every token once, in windows as long as the model allows."""
        pairs: list[Pair] = []
        owners = []
        for number, request in enumerate(requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._max_length,
                context_len=1,
            )
            for window in map(make_disjoint_window, windows):
                pairs.append(window)
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (total, _) in zip(owners, self._score(pairs, "scoring texts"), strict=True):
            totals[owner] += total
        return totals

    def _score(
        self, pairs: Sequence[Pair], stage: str, *, decide_greedy: bool = False
    ) -> list[tuple[float, bool]]:
        """Score each continuation: its log-likelihood, and whether it is the most likely one."""
        rows = [self._cut(*pair) for pair in pairs]
        found: list[tuple[float, bool]] = [(0.0, False)] * len(rows)
        done = 0
        for batch in self._make_batches(rows):
            self._go_on()
            report_stage(stage, done, len(rows))
            tokens, targets = _pad([rows[number] for number in batch])
            scores = self._model.backend_model.logprobs(tokens, targets).astype(np.float64)
            totals = scores.sum(axis=1)
            greedy = np.zeros(len(batch), np.bool_)
            if decide_greedy:
                greedy = self._find_greedy(tokens, targets, scores)
            for at, number in enumerate(batch):
                found[number] = float(totals[at]), bool(greedy[at])
            done += len(batch)
        report_stage("")
        return found

    def _cut(self, context: list[int], continuation: list[int]) -> tuple[list[int], int]:
        """A row's ids, the last ones where they are too many, and how many of them are scored."""
        if len(continuation) > self._max_length:
            raise HermesError(
                f"a continuation has {len(continuation)} tokens, more than the model's "
                f"max_seq_len {self._max_length}"
            )
        if not context or not continuation:
            raise HermesError("a task asks for the likelihood of a text without a token")
        return (context + continuation)[-(self._max_length + 1) :], len(continuation)

    def _make_batches(self, rows: Sequence[tuple[list[int], int]]) -> Iterator[list[int]]:
        """The numbers of rows, the longest together and first."""
        order = sorted(range(len(rows)), key=lambda number: -len(rows[number][0]))
        for start in range(0, len(order), self._batch_size):
            yield order[start : start + self._batch_size]

    def _find_greedy(
        self, tokens: NDArray[np.int32], targets: NDArray[np.int32], scores: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Which rows have the most likely token everywhere. (B, T), (B, T), (B, T) -> (B,)

        A token above one half is the most likely, and none below 1 / V is; logits, which are many
        numbers, are read for the rows that these do not decide.
        """
        scored = targets != IGNORE
        certain = (~scored | (scores > log(0.5) + MARGIN)).all(axis=1)
        impossible = (scored & (scores < -log(self._model.spec.vocab_size) - MARGIN)).any(axis=1)
        open_rows = np.flatnonzero(~certain & ~impossible)
        greedy: NDArray[np.bool_] = certain.copy()
        share = max(LOGITS // (tokens.shape[1] * self._model.spec.vocab_size), 1)
        for start in range(0, len(open_rows), share):
            part = open_rows[start : start + share]
            best = self._model.backend_model.logits(tokens[part]).argmax(axis=-1)
            greedy[part] = (~scored[part] | (best == targets[part])).all(axis=1)
        return greedy

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """The text that follows each context, up to one of its stop strings."""
        made = [self._make_request(number, *one.args) for number, one in enumerate(requests)]
        # The longest first, so that texts of about one length run beside each other.
        order = sorted(range(len(made)), key=lambda number: -len(made[number].prompt))
        capacity = max(len(one.prompt) + one.max_tokens for one in made)
        engine = self._model.make_engine(
            rows=min(self._batch_size, len(made)), capacity=capacity, max_queue=len(made) + 1
        )

        def follow() -> Iterable[Request]:
            for done, number in enumerate(order):
                self._go_on()
                report_stage("generating answers", done, len(order))
                yield made[number]

        texts = [""] * len(made)
        for number, generation in zip(order, run_requests(engine, follow()), strict=True):
            if generation.error is not None:
                raise generation.error
            texts[number] = generation.text
        report_stage("")
        return texts

    def _make_request(self, number: int, context: str, settings: Mapping[str, Any]) -> Request:
        """A request of the harness's as the engine takes it. Raises HermesError."""
        told = dict(settings)
        lengths = [told.pop(name) for name in LENGTHS if told.get(name) is not None]
        max_tokens = int(lengths[0]) if lengths else DEFAULT_TOKENS
        room = self._max_length - max_tokens
        if room < 1:
            raise HermesError(
                f"the task asks for texts of {max_tokens} tokens, which leaves no room for a "
                f"prompt: the model's max_seq_len is {self._max_length}; a task of your own may "
                "set max_gen_toks in its generation_kwargs"
            )
        until = told.pop("until", None) or []
        stops = [until] if isinstance(until, str) else list(until)
        named = {text: self._tokens.find_special_id(text) for text in stops}
        prompt = self.tok_encode(context)[-room:] or [self.prefix_token_id]
        ends = {*self._tokens.stop_ids, self.eot_token_id}
        return Request(
            tuple(prompt),
            max_tokens,
            _read_sampling(told),
            completion=number,
            stop=tuple(text for text in stops if text and named[text] is None),
            stop_ids=tuple({*ends, *(one for one in named.values() if one is not None)}),
            continued=False,
        )

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The text of the template that chats are written with."""
        return self._template.source if self._template else ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A chat as text; without a prompt for an answer, it ends in the middle of its last turn.

        Raises DataError where the template refuses it.
        """
        if self._template is None:
            raise HermesError("no chat template was asked for; pass --apply-chat-template")
        text = self._template.render(chat_history, prompt=add_generation_prompt)
        text = text.replace(OPEN, "").replace(CLOSE, "")
        if add_generation_prompt:
            return text
        last = chat_history[-1]["content"].strip()
        if last not in text:
            raise HermesError("the chat template does not write a begun answer as it is")
        return text[: text.rindex(last) + len(last)]


def _pad(rows: Sequence[tuple[list[int], int]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Inputs and targets of rows of ids, of which the last ones are scored. -> (B, T), (B, T)"""
    length = max(len(ids) for ids, _ in rows) - 1
    tokens = np.zeros((len(rows), length), np.int32)
    targets = np.full((len(rows), length), IGNORE, np.int32)
    for at, (ids, count) in enumerate(rows):
        end = len(ids) - 1
        tokens[at, :end] = ids[:-1]
        targets[at, end - count : end] = ids[-count:]
    return tokens, targets


def _read_sampling(settings: dict[str, Any]) -> Sampling:
    """How a task samples: not at all, unless it says so. Raises HermesError."""
    do_sample = settings.pop("do_sample", None)
    temperature = float(settings.pop("temperature", None) or 0.0)
    if do_sample is False:
        temperature = 0.0
    elif do_sample and not temperature:
        temperature = 1.0
    if unknown := [name for name in settings if name not in SAMPLING]:
        raise HermesError(
            f"the task's generation_kwargs have {unknown[0]!r}, which hermes does not know; it "
            f"knows until, max_gen_toks, do_sample, temperature, {', '.join(SAMPLING)}"
        )
    return Sampling(temperature=temperature, **settings)
