"""A model with its tokenizer: found wherever it lies, built on a backend, ready to speak."""

import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hermes.errors import CheckpointError, HermesError
from hermes.formatting import format_count
from hermes.inference.decoding import generate_tokens
from hermes.inference.sampling import Sampling
from hermes.interface import Model as BackendModel
from hermes.interface import Options, choose_backend
from hermes.interop.companions import parse_object
from hermes.interop.hub import load_tokenizer
from hermes.interop.open_model import StoredModel, open_model
from hermes.numerics.params import count_parameters
from hermes.spec import ModelSpec
from hermes.stages import report_stage
from hermes.tokenizer import Tokenizer

__all__ = ["GeneratedText", "Model", "load"]


class Model:
    """Weights on a backend with the tokenizer beside them; made by `load`.

    backend_model: the model as the backend built it. read_tokenizer: called when a tokenizer is
    first needed; None where the checkpoint has none. begins_with_bos: texts begin with that token.
    stops: tokens at which a completion ends, besides those that the tokenizer names. backend,
    device: their names, for the repr.
    """

    def __init__(
        self,
        backend_model: BackendModel,
        read_tokenizer: Callable[[], Tokenizer] | None,
        *,
        begins_with_bos: bool = False,
        stops: frozenset[int] = frozenset(),
        path: Path | None = None,
        backend: str = "",
        device: str = "",
    ):
        self.backend_model = backend_model
        self.spec: ModelSpec = backend_model.spec
        self.path = path
        self._backend, self._device = backend, device
        self._read_tokenizer = read_tokenizer
        self._begins_with_bos = begins_with_bos
        self._stops = stops

    def __repr__(self) -> str:
        spec = self.spec
        count = f"{count_parameters(spec):,} parameters"
        where = " on ".join(filter(None, (self._backend, self._device)))
        facts = [count, format_count(spec.num_layers, "layers"), where]
        return f"Model({', '.join([spec.name, *filter(None, facts)])})"

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises CheckpointError where there is none, or one that does not fit."""
        if self._read_tokenizer is None:
            raise CheckpointError(
                f"{self.path} has no tokenizer.json beside it; give one with --tokenizer, or "
                "load(..., tokenizer=...)"
            )
        found = self._read_tokenizer()
        if not _has_fitting_vocabulary(found.vocab_size, self.spec.vocab_size):
            raise CheckpointError(
                f"the tokenizer has {found.vocab_size} tokens and the model {self.spec.vocab_size}"
                "; use the tokenizer that the model was trained with"
            )
        return found

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
        """A prompt's ids, with the token that begins a text where the model expects one.

        An empty prompt becomes the token after which a text of the training data began.
        """
        t = self.tokenizer
        begin = [t.bos_id] if self._begins_with_bos and t.bos_id is not None else []
        ids = begin + t.encode(prompt)
        start = t.bos_id if t.eos_id is None else t.eos_id
        return ids if ids or start is None else [start]

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
        ids = self.encode(prompt) if isinstance(prompt, str) else list(prompt)
        return generate_tokens(
            self.backend_model,
            ids,
            max_tokens=max_tokens,
            sampling=sampling or Sampling(),
            seed=seed,
            completion=completion,
            stop=self.tokenizer.stop_ids | self._stops,
            vocab_size=self.tokenizer.vocab_size,
        )

    def generate(
        self,
        prompt: str,
        *,
        max_tokens: int = 100,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int = 0,
    ) -> str:
        """The text that follows a prompt. temperature 0 takes the likeliest token, always."""
        sampling = Sampling(temperature, top_k, top_p, min_p)
        ids = self.tokens(prompt, max_tokens=max_tokens, sampling=sampling, seed=seed)
        return self.tokenizer.decode(ids)

    def complete(
        self,
        prompt: str,
        *,
        max_tokens: int = 100,
        sampling: Sampling | None = None,
        seed: int = 0,
        show: Callable[[str], object] = lambda piece: None,
    ) -> "GeneratedText":
        """The text that follows a prompt, and why it ended. show: called with each piece of it."""
        stream = self.tokenizer.stream()
        tokens: list[int] = []
        made = self.tokens(prompt, max_tokens=max_tokens, sampling=sampling, seed=seed)
        while True:
            try:
                token = next(made)
            except StopIteration as end:
                reason: str = end.value
                break
            tokens.append(token)
            show(stream.push(token))
        show(stream.flush())
        return GeneratedText(self.tokenizer.decode(tokens), len(tokens), reason, seed)


@dataclass(frozen=True)
class GeneratedText:
    """The text that followed a prompt. tokens: their number, without one that ended it.

    finish_reason: 'stop' at a stop token, 'length' at max_tokens or at the end of the context.
    """

    text: str
    tokens: int
    finish_reason: str
    seed: int

    def __str__(self) -> str:
        return self.text


def _has_fitting_vocabulary(tokens: int, rows: int) -> bool:
    """Whether a model has a row for every token, and no more besides than padding makes."""
    padding = rows - tokens
    return 0 <= padding <= rows // 50 or (0 <= padding < 128 and rows % 64 == 0)


def load(
    checkpoint: str | Path,
    backend: str = "auto",
    device: str | None = None,
    precision: str = "float32",
    *,
    config: str | Path | None = None,
    tokenizer: str | Path | Tokenizer | None = None,
) -> Model:
    """Load a model to evaluate and to generate with.

    checkpoint: a checkpoint, a run (its newest whole one), a Hugging Face folder, or a file of
    weights with `config` telling the architecture. tokenizer: another than the one beside it.
    Raises CheckpointError, MissingBackend, Unsupported.
    """
    found = choose_backend(backend)
    report_stage(f"reading {checkpoint}")
    source = open_model(Path(checkpoint), config=Path(config) if config else None)
    for note in source.notes:
        warnings.warn(note, stacklevel=2)
    settings = source.files.get("tokenizer_config.json")
    report_stage(f"building {source.spec.name}")
    built = found.build(source.spec, source.params, Options(device=device, precision=precision))
    report_stage("")
    return Model(
        built,
        _choose_tokenizer(source, tokenizer),
        begins_with_bos=settings is not None and _needs_bos(settings, source.path),
        stops=_read_stop_ids(source),
        path=source.path,
        backend=found.name,
        device=device or found.devices()[0],
    )


def _choose_tokenizer(
    source: StoredModel, given: str | Path | Tokenizer | None
) -> Callable[[], Tokenizer] | None:
    held = source.files.get("tokenizer.json")
    own = None if held is None else _defer_tokenizer(held, f"{source.path}/tokenizer.json")
    if given is None:
        return own
    # What the user gave is looked at now.
    found = given if isinstance(given, Tokenizer) else load_tokenizer(given)
    if own is not None and found.fingerprint != own().fingerprint:
        raise CheckpointError(
            f"the tokenizer given has {found.vocab_size} tokens and is not the one of "
            f"{source.path}, which has {own().vocab_size}; leave it out to use that one"
        )
    return lambda: found


def _defer_tokenizer(text: bytes, where: str) -> Callable[[], Tokenizer]:
    return cache(lambda: Tokenizer(text.decode("utf-8"), where))


def _needs_bos(settings: bytes, where: Path) -> bool:
    return parse_object(settings, f"{where}/tokenizer_config.json").get("add_bos_token") is True


def _read_stop_ids(source: StoredModel) -> frozenset[int]:
    """The tokens at which other tools end a completion of this model."""
    held = source.files.get("generation_config.json")
    where = f"{source.path}/generation_config.json"
    found = parse_object(held, where).get("eos_token_id") if held else None
    ids = found if isinstance(found, list) else [found]
    return frozenset(number for number in ids if type(number) is int)
