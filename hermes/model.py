"""A model on a backend with its tokenizer: it scores tokens, and generates and searches text."""

import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hermes.errors import CheckpointError, HermesError
from hermes.formatting import format_count
from hermes.inference.beam_search import search_beams
from hermes.inference.decoding import (
    check_prompt,
    check_stop_ids,
    generate_choices,
    generate_tokens,
    warn_of_full_context,
)
from hermes.inference.engine import Engine
from hermes.inference.generated_text import (
    GeneratedText,
    describe_beam,
    describe_choices,
    score_tokens,
)
from hermes.inference.grammar import compile_json_schema
from hermes.inference.prompt_cache import CacheKey, PromptCache, run_with_cache
from hermes.inference.request import Generation, Request
from hermes.inference.sampling import GREEDY, Sampling
from hermes.inference.sampling_defaults import choose_sampling
from hermes.inference.sampling_options import make_sampling
from hermes.interface import Model as BackendModel
from hermes.interface import find_backend
from hermes.interop.companions import check_rows, describe_spare_rows
from hermes.model_info.memory import explain_out_of_memory
from hermes.numerics.params import count_parameters
from hermes.spec import ModelSpec
from hermes.tokenizer import Tokenizer

__all__ = ["GeneratedText", "Model"]


class Model:
    """Weights on a backend with the tokenizer beside them; made by `load`.

    backend_model: the model as the backend built it. read_tokenizer: called when a tokenizer is
    first needed; None where the checkpoint has none. generation_config: the checkpoint's, whose
    sampling is the default. backend, device: their names, for the repr. make_cache_key: called when
    a prompt cache is asked for; None where none can be.
    """

    def __init__(
        self,
        backend_model: BackendModel,
        read_tokenizer: Callable[[], Tokenizer] | None,
        *,
        generation_config: Mapping[str, Any] | None = None,
        path: Path | None = None,
        backend: str = "",
        device: str = "",
        make_cache_key: Callable[[], CacheKey] | None = None,
    ):
        self.backend_model = backend_model
        self.spec: ModelSpec = backend_model.spec
        self.path = path
        self._backend, self._device = backend, device
        self._read_tokenizer = read_tokenizer
        self._generation_config = generation_config or {}
        self._make_cache_key = make_cache_key

    def __repr__(self) -> str:
        spec = self.spec
        count = f"{count_parameters(spec):,} parameters"
        where = " on ".join(filter(None, (self._backend, self._device)))
        facts = [count, format_count(spec.num_layers, "layers"), where]
        return f"Model({', '.join([spec.name, *filter(None, facts)])})"

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises CheckpointError where there is none, or one that does not fit.

        Warns where the files beside it contradict each other about its tokens.
        """
        if self._read_tokenizer is None:
            raise CheckpointError(
                f"{self.path} has no tokenizer.json beside it; give one with --tokenizer, or "
                "load(..., tokenizer=...)"
            )
        found = self._read_tokenizer()
        rows = self.spec.vocab_size
        check_rows(found, rows)
        for note in filter(None, (describe_spare_rows(found, rows), *found.roles.notes)):
            warnings.warn(note, stacklevel=3)
        return found

    def choose_sampling(
        self,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        others: Mapping[str, Any] | None = None,
    ) -> Sampling:
        """The sampling given, where None the checkpoint's own; warns where the latter decides.

        others: further options of `hermes generate` by name, as `make_sampling` has them.
        """
        given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        needs_text = others and any(others.get(name) for name in ("ban", "dry_multiplier"))
        tokenizer = self.tokenizer if needs_text else None
        sampling, said = make_sampling(
            tokenizer, self._generation_config, {**given, **(others or {})}
        )
        if said:
            warnings.warn(said, stacklevel=3)
        return sampling

    def logits(self, tokens: ArrayLike) -> NDArray[np.floating]:
        """Scores of the next token at every position. (B, T) integers -> (B, T, V) float32."""
        try:
            ids = np.asarray(tokens)
        except ValueError:
            raise HermesError("tokens must be rows of equal length, (B, T)") from None
        if ids.size == 0:
            raise HermesError(f"tokens must be (B, T) with at least one token, got {ids.shape}")
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
            raise HermesError(f"tokens must be integers (B, T), got {ids.dtype} {ids.shape}")
        return self.backend_model.logits(ids)

    def encode(self, prompt: str) -> list[int]:
        """A prompt's ids, with the token that begins a text where the tokenizer puts one.

        An empty prompt becomes the token after which a text of the training data began.
        """
        t = self.tokenizer
        ids = t.encode_prompt(prompt)
        if beyond := next((token for token in ids if token >= self.spec.vocab_size), None):
            raise HermesError(
                f"the text has the token {t.get_name(beyond)!r}, for which the model has no row"
            )
        return ids

    def make_request(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int = 100,
        sampling: Sampling | None = None,
        seed: int = 0,
        completion: int = 0,
        stop: str | Sequence[str] = (),
        stop_ids: Sequence[int] = (),
        logprobs: int | None = None,
        context_overflow: str = "stop",
        json_schema: Mapping[str, Any] | None = None,
    ) -> Request:
        """A request for an engine of `make_engine`; what ends the model's texts ends this one.

        Arguments are those of `complete`. Raises HermesError.
        """
        check_prompt(prompt)
        is_text = isinstance(prompt, str)
        check_stop_ids(stop_ids, self._num_tokens)
        return Request(
            tuple(self.encode(prompt) if isinstance(prompt, str) else prompt),
            max_tokens,
            sampling or self.choose_sampling(),
            seed,
            completion,
            (stop,) if isinstance(stop, str) else tuple(stop),
            tuple({*self.tokenizer.stop_ids, *stop_ids}),
            logprobs,
            context_overflow,
            continued=bool(prompt) if is_text else True,
            grammar=None
            if json_schema is None
            else compile_json_schema(self.tokenizer, json_schema),
        )

    def make_engine(
        self,
        *,
        rows: int = 16,
        capacity: int | None = None,
        max_queue: int = 1024,
        prefill_chunk: int | None = None,
        batch_invariant: bool = False,
    ) -> Engine:
        """An engine that generates many texts at once. Arguments are those of `Engine`."""
        return Engine(
            self.backend_model,
            tokenizer=self.tokenizer,
            rows=rows,
            capacity=capacity,
            max_queue=max_queue,
            prefill_chunk=prefill_chunk,
            vocab_size=self._num_tokens,
            batch_invariant=batch_invariant,
        )

    @property
    def _num_tokens(self) -> int:
        """Ids that may be chosen: not those of rows that no token uses."""
        return min(self.tokenizer.vocab_size, self.spec.vocab_size)

    def tokens(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int = 100,
        sampling: Sampling | None = None,
        seed: int = 0,
        completion: int = 0,
    ) -> Generator[int, None, str]:
        """The ids that follow a prompt, as they are made; the iterator's value is why it ended.

        seed and completion decide the text, on every backend.
        """
        check_prompt(prompt)
        ids = self.encode(prompt) if isinstance(prompt, str) else list(prompt)
        return generate_tokens(
            self.backend_model,
            ids,
            max_tokens=max_tokens,
            sampling=sampling or self.choose_sampling(),
            seed=seed,
            completion=completion,
            stop=self.tokenizer.stop_ids,
            vocab_size=self._num_tokens,
        )

    def generate(
        self,
        prompt: str,
        *,
        max_tokens: int = 100,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        sampling: Sampling | None = None,
    ) -> str:
        """The text that follows a prompt. temperature 0 takes the likeliest token, always.

        None: as the checkpoint's generation_config.json has it, else 0.8, 0, 1 and 0. sampling:
        instead of these four, with every setting that there is. stop: as in `complete`.
        """
        chosen = sampling or self.choose_sampling(temperature, top_k, top_p, min_p)
        return self.complete(
            prompt, max_tokens=max_tokens, sampling=chosen, seed=seed, stop=stop
        ).text

    def complete(
        self,
        prompt: str,
        *,
        max_tokens: int = 100,
        sampling: Sampling | None = None,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        stop_ids: Sequence[int] = (),
        logprobs: int | None = None,
        echo: bool = False,
        context_overflow: str = "stop",
        json_schema: Mapping[str, Any] | None = None,
        prompt_cache: str | Path | None = None,
        show: Callable[[str], object] = lambda piece: None,
    ) -> GeneratedText:
        """The text that follows a prompt, and why it ended. show: called with each piece of it.

        stop: strings before which the text ends, or one. stop_ids: tokens that end it, beside the
        model's. logprobs: how many of the most likely tokens come with each one. echo: the prompt
        is part of the text; with max_tokens 0 and logprobs, a given text is scored.
        context_overflow: 'stop' ends the text where the context is full, 'slide' forgets the first
        half of it. json_schema: the text is JSON of this schema; {} for any, and
        {"type": "object"} for any object. It is whole unless max_tokens or the context end it.
        prompt_cache: a file from which as much of the prompt as it has is taken instead of read,
        and which has all of it afterwards.
        """
        request = self.make_request(
            prompt,
            max_tokens=max_tokens,
            sampling=sampling,
            seed=seed,
            stop=stop,
            stop_ids=stop_ids,
            logprobs=logprobs,
            context_overflow=context_overflow,
            json_schema=json_schema,
        )
        stream = self.tokenizer.stream(continued=request.continued)
        generation = Generation(request, stream, lambda _, piece: show(piece.text))
        if echo:
            show(prompt)
        if max_tokens == 0 and echo:
            generation.finish("length")
        else:
            with self.explain_memory("a shorter prompt or fewer --max-tokens"):
                if prompt_cache is None:
                    self._run(generation)
                else:
                    generation = self._run_cached(request, prompt_cache, show)
        return self.describe_generation(generation, prompt if echo else None)

    def search(
        self, prompt: str, *, num_beams: int = 4, max_tokens: int = 100, length_penalty: float = 1.0
    ) -> list[GeneratedText]:
        """The most probable texts that beam search finds after a prompt, the best first.

        Arguments are those of `search_beams`. Warns of penalties in the checkpoint's
        generation_config.json, which are not applied.
        """
        if choose_sampling(self._generation_config, {"temperature": 0.0})[0] != GREEDY:
            warnings.warn(
                "generation_config.json asks for penalties, which a beam search does not apply",
                stacklevel=2,
            )
        with self.explain_memory("fewer --num-beams, a shorter prompt or fewer --max-tokens"):
            beams = search_beams(
                self.backend_model,
                self.encode(prompt),
                num_beams=num_beams,
                max_tokens=max_tokens,
                stop=self.tokenizer.stop_ids,
                vocab_size=self._num_tokens,
                length_penalty=length_penalty,
            )
        return [describe_beam(self.tokenizer, beam, continued=bool(prompt)) for beam in beams]

    def explain_memory(self, advice: str) -> AbstractContextManager[None]:
        """A block that raises OutOfMemory where memory runs out in it. advice: what to choose."""
        backend = find_backend(self._backend) if self._backend else None
        where = f" on {self._device}" if self._device else ""
        doing = f"running {self.spec.name}{where}"
        return explain_out_of_memory(doing, advice, backend, self._device or None)

    def _run(self, generation: Generation) -> None:
        """Decode a text by itself."""
        request = generation.request
        made = generate_choices(
            self.backend_model,
            request.prompt,
            max_tokens=request.max_tokens,
            sampling=request.sampling,
            seed=request.seed,
            completion=request.completion,
            stop=request.stop_ids,
            vocab_size=self._num_tokens,
            context_overflow=request.context_overflow,
            logprobs=request.logprobs,
            grammar=request.grammar,
        )
        while not generation.is_done:
            try:
                choice = next(made)
            except StopIteration as end:
                generation.finish(str(end.value))
            else:
                generation.add(choice)

    def _run_cached(
        self, request: Request, path: str | Path, show: Callable[[str], object]
    ) -> Generation:
        """Decode a text whose prompt is in a file, or will be. Raises HermesError."""
        if self._make_cache_key is None:
            raise HermesError("this model was not loaded from files, so it has no prompt cache")
        engine = self.make_engine(rows=1, capacity=len(request.prompt) + request.max_tokens)
        cache = PromptCache(path, self._make_cache_key())
        generation = run_with_cache(cache, engine, request, lambda _, piece: show(piece.text))
        if generation.context_is_full:
            warn_of_full_context(self.spec.max_seq_len, len(generation.choices), request.max_tokens)
        return generation

    def describe_generation(
        self, generation: Generation, prompt: str | None = None
    ) -> GeneratedText:
        """A text that is done. prompt: what stands before the text, None for nothing."""
        request, logprobs = generation.request, None
        if request.logprobs is not None:
            given = (
                score_tokens(self.backend_model, request.prompt, request.logprobs)
                if prompt is not None
                else []
            )
            logprobs = describe_choices(self.tokenizer, [*given, *generation.choices])
        assert generation.finish_reason is not None, "the text is done"
        return GeneratedText(
            (prompt or "") + generation.text,
            len(generation.choices),
            generation.finish_reason,
            request.seed,
            generation.stop,
            logprobs,
        )
