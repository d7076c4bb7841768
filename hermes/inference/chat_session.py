"""A chat session: a conversation with a model, whose answers are streamed."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hermes.chat_templates.encoder import ChatEncoder
from hermes.chat_templates.messages import Message
from hermes.errors import DataError, HermesError, StorageError
from hermes.inference.decoding import check_stop_ids, generate_tokens
from hermes.inference.sampling import Sampling
from hermes.inference.stop_strings import StopStrings
from hermes.interface import Backend, Model
from hermes.model_info.memory import explain_out_of_memory
from hermes.storage.durable import write_atomically

__all__ = ["ChatSession"]

ATTEMPTS = 1 << 20  # answers of a conversation, beyond which those of other attempts are numbered


@dataclass
class ChatSession:
    """A conversation with a model.

    Each answer is a function of the conversation, the seed and the number of the answer, on any
    backend. num_dropped: how many of the oldest messages no longer fit the model's context. stop:
    strings before which an answer ends; stop_ids: tokens that end it, beside the model's.
    backend, device: where the model is, for what is said when memory runs out.
    """

    model: Model
    encoder: ChatEncoder
    system: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 512
    seed: int = 0
    messages: list[Message] = field(default_factory=list)
    num_dropped: int = 0
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    backend: Backend | None = None
    device: str | None = None
    _attempt: int = field(default=0, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_stop_ids(self.stop_ids)

    def say(self, text: str) -> Iterator[str]:
        """Send a message; yield the answer in pieces, and add both to the conversation at its end.

        Drops the oldest turns where the context has no room for an answer. Raises HermesError,
        which leaves the conversation as it was.
        """
        self._attempt = 0
        return self._say(self.messages, text)

    def retry(self) -> Iterator[str]:
        """Answer the last message anew, with other random numbers each time; otherwise as `say`."""
        message = self._get_last_message()
        self._attempt += 1
        return self._say(self.messages[:-2], message)

    def undo(self) -> str:
        """Forget the last message and its answer; returns the message. Raises HermesError."""
        message = self._get_last_message()
        self.messages = self.messages[:-2]
        return message

    def _get_last_message(self) -> str:
        if not self.messages:
            raise HermesError("there is no message yet")
        return str(self.messages[-2]["content"])

    def _say(self, history: list[Message], text: str) -> Iterator[str]:
        messages = [*history, {"role": "user", "content": text}]
        prompt, num_dropped = self._fit_prompt(messages)
        tokenizer = self.encoder.tokenizer
        tokens = generate_tokens(
            self.model,
            prompt,
            max_tokens=self.max_tokens,
            sampling=self.sampling,
            seed=self.seed,
            completion=len(messages) // 2 + self._attempt * ATTEMPTS,
            stop=tokenizer.stop_ids | {self.encoder.find_end_of_turn(), *self.stop_ids},
            vocab_size=tokenizer.vocab_size,
        )
        return self._answer(messages, num_dropped, tokens)

    def _answer(
        self, messages: list[Message], num_dropped: int, tokens: Iterator[int]
    ) -> Iterator[str]:
        stream, stops, answer = self.encoder.tokenizer.stream(), StopStrings(self.stop), ""
        doing, advice = f"running {self.model.spec.name}", "fewer --max-tokens, or /reset"
        with explain_out_of_memory(doing, advice, self.backend, self.device):
            for token in tokens:
                piece = stops.push(stream.push(token))
                answer += piece
                yield piece
                if stops.found is not None:
                    break
        rest = stops.push(stream.flush()) + stops.flush()
        yield rest
        self.messages = [*messages, {"role": "assistant", "content": answer + rest}]
        self.num_dropped = num_dropped

    def _fit_prompt(self, messages: list[Message]) -> tuple[list[int], int]:
        """Encode the prompt, without the oldest turns if the whole does not fit. -> ids, dropped"""
        head: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        room = self.model.spec.max_seq_len - min(self.max_tokens, self._reserve_room())
        for first in range(0, len(messages), 2):
            prompt = self.encoder.encode_prompt([*head, *messages[first:]])
            if len(prompt) <= room:
                return prompt, first
        raise HermesError(
            f"the message has {len(prompt)} tokens with its template, more than the model's "
            f"context of {self.model.spec.max_seq_len} has room for beside an answer; shorten it"
        )

    def _reserve_room(self) -> int:
        """Reserve a quarter of the context, at least one token, for the answer."""
        return max(self.model.spec.max_seq_len // 4, 1)

    def reset(self) -> None:
        """Clear the conversation but keep the system prompt."""
        self.messages, self.num_dropped = [], 0

    def save(self, path: Path, *, over: bool = False) -> None:
        """Write the conversation as a record that `hermes sft` reads; `over`: replace a file.

        Raises StorageError.
        """
        if path.exists() and not over:
            raise StorageError(f"{path} exists; choose another name, or /save! to write over it")
        head: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        text = json.dumps({"messages": [*head, *self.messages]}, ensure_ascii=False)
        write_atomically(path, (text + "\n").encode("utf-8"))

    def load(self, path: Path) -> None:
        """Load a saved conversation, replacing this one. Raises DataError, StorageError."""
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error
        except ValueError as error:
            raise DataError(f"{path}: not a conversation: {error}") from None
        found = value.get("messages") if isinstance(value, dict) else None
        items = [m if isinstance(m, dict) else {} for m in found or ()]
        turns = [(item.get("role"), item.get("content")) for item in items]
        system = ""
        if turns and turns[0][0] == "system":
            system = str(turns.pop(0)[1])
        plain = isinstance(found, list) and all(isinstance(said, str) for _, said in turns)
        if not plain or [role for role, _ in turns] != ["user", "assistant"] * (len(turns) // 2):
            raise DataError(
                f"{path}: not a conversation of alternating user and assistant messages; give "
                "one that /save wrote"
            )
        messages: list[Message] = [{"role": role, "content": said} for role, said in turns]
        self.system, self.messages, self.num_dropped = system, messages, 0
