"""A text to be generated, and what has become of it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from hermes.arguments import convert_fields
from hermes.errors import HermesError
from hermes.inference.grammar import Grammar
from hermes.inference.sampler import Choice
from hermes.inference.sampling import Sampling
from hermes.inference.stop_strings import StopStrings
from hermes.tokenizer import TextDecoder

__all__ = ["Generation", "Listener", "Piece", "Request"]


@dataclass(frozen=True)
class Request:
    """A prompt of token ids, and how to continue it.

    stop: strings before the first of which the text ends. stop_ids: tokens that end the text and
    are no part of it. completion: names the stream of random numbers, beside the seed. logprobs:
    how many most probable tokens come with each one, None for no log-probabilities.
    context_overflow: 'stop' ends the text where the context is full, 'slide' goes on from the last
    half of it. continued: the text goes on in the middle of one, so a leading space stays. grammar:
    what the text must follow, and at whose end it ends. Raises HermesError.
    """

    prompt: tuple[int, ...]
    max_tokens: int = 100
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    completion: int = 0
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    context_overflow: str = "stop"
    continued: bool = True
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        convert_fields(self)
        StopStrings(self.stop)


@dataclass(frozen=True)
class Piece:
    """What came of one step. text: whole characters that no stop string takes back; may be ''.

    finish_reason: None, or of the last piece why the text ended: 'stop' at a token or string of the
    request's, 'length' at max_tokens or at the end of the context, 'cancelled', or 'error'.
    """

    text: str
    choice: Choice | None = None
    finish_reason: str | None = None


Listener = Callable[["Generation", Piece], object]


class Generation:
    """A request that was handed over, and the text so far; made by `Engine.submit`.

    choices: the tokens, without the one that ended the text. text: what they say, without a stop
    string. stop: the stop string that was found. error: why it failed. context_is_full: whether the
    end of the context ended it. num_reused: tokens of the prompt that another text had read.
    """

    def __init__(self, request: Request, stream: TextDecoder | None, listener: Listener | None):
        self.request = request
        self.choices: list[Choice] = []
        self.text = ""
        self.finish_reason: str | None = None
        self.error: HermesError | None = None
        self.context_is_full = False
        self.num_reused = 0
        self.cancel_asked = False
        self._stream, self._listener = stream, listener
        self._stops = StopStrings(request.stop)

    @property
    def tokens(self) -> tuple[int, ...]:
        """The ids of the text."""
        return tuple(choice.token for choice in self.choices)

    @property
    def stop(self) -> str | None:
        """The stop string that ended the text."""
        return self._stops.found

    @property
    def is_done(self) -> bool:
        """Whether nothing more comes."""
        return self.finish_reason is not None

    def add(self, choice: Choice) -> None:
        """Add a token, which may complete a stop string, and tell the listener."""
        self.choices.append(choice)
        text = self._stream.push(choice.token) if self._stream else ""
        self._tell(self._stops.push(text), choice, "stop" if self._stops.found else None)

    def finish(self, reason: str, error: HermesError | None = None) -> None:
        """End the text, and tell the listener what was held back."""
        rest = self._stream.flush() if self._stream else ""
        self.error = error
        text = self._stops.push(rest) + self._stops.flush()
        self._tell(text, None, "stop" if self._stops.found else reason)

    def _tell(self, text: str, choice: Choice | None, reason: str | None) -> None:
        self.text += text
        self.finish_reason = reason
        if self._listener is not None:
            self._listener(self, Piece(text, choice, reason))
