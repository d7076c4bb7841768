"""A chat session: a conversation with a model, whose answers are streamed."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hermes.chat_templates.encoder import ChatEncoder
from hermes.chat_templates.messages import Message
from hermes.errors import DataError, HermesError, StorageError, explain_os_error
from hermes.inference.conversation_window import fit_conversation, reserve_answer
from hermes.inference.decoding import check_stop_ids, warn_of_full_context
from hermes.inference.engine import Engine
from hermes.inference.prompt_cache import PromptCache
from hermes.inference.request import Generation, Piece, Request
from hermes.inference.sampling import Sampling
from hermes.interface import Backend, Model
from hermes.model_info.memory import explain_out_of_memory
from hermes.storage.durable import write_atomically
from hermes.storage.plain_json import load_json
from hermes.storage.reading import read_bounded

__all__ = ["ChatSession"]

ATTEMPTS = 1 << 20  # answers of a conversation, beyond which those of other attempts are numbered


@dataclass
class ChatSession:
    """A conversation with a model.

    Each answer is a function of the conversation, the seed and the number of the answer, on any
    backend. num_dropped: how many of the oldest messages no longer fit the model's context. stop:
    strings before which an answer ends; stop_ids: tokens that end it, beside the model's.
    context_overflow: as of Request. cache: a file of what was read. backend, device: where the
    model is, for what is said when memory runs out.
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
    context_overflow: str = "stop"
    cache: PromptCache | None = None
    backend: Backend | None = None
    device: str | None = None
    _attempt: int = field(default=0, repr=False, compare=False)
    _engine: Engine | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_stop_ids(self.stop_ids, self.encoder.tokenizer.vocab_size)

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
        ends = tokenizer.stop_ids | {self.encoder.find_end_of_turn(), *self.stop_ids}
        request = Request(
            tuple(prompt),
            max_tokens=self.max_tokens,
            sampling=self.sampling,
            seed=self.seed,
            completion=len(messages) // 2 + self._attempt * ATTEMPTS,
            stop=self.stop,
            stop_ids=tuple(sorted(ends)),
            context_overflow=self.context_overflow,
            continued=False,
        )
        return self._answer(messages, num_dropped, request)

    def _answer(self, messages: list[Message], num_dropped: int, request: Request) -> Iterator[str]:
        pieces: list[Piece] = []
        doing, advice = f"running {self.model.spec.name}", "fewer --max-tokens, or /reset"
        with explain_out_of_memory(doing, advice, self.backend, self.device):
            engine = self._open_engine(len(request.prompt) + self.max_tokens)
            generation = engine.submit(request, lambda _, piece: pieces.append(piece))
            try:
                while not generation.is_done:
                    engine.step()
                    yield from (piece.text for piece in pieces)
                    pieces.clear()
            finally:
                engine.cancel(generation)  # which an answer that is left early needs
                engine.run()
        if generation.error is not None:
            raise generation.error
        self._finish(messages, num_dropped, engine, generation)

    def _finish(
        self, messages: list[Message], num_dropped: int, engine: Engine, generation: Generation
    ) -> None:
        """Remember a turn, and what was read of it."""
        request = generation.request
        if generation.context_is_full:
            longest = self.model.spec.max_seq_len
            warn_of_full_context(longest, len(generation.choices), request.max_tokens)
        self.messages = [*messages, {"role": "assistant", "content": generation.text}]
        self.num_dropped = num_dropped
        if self.cache is not None:
            self.cache.save(engine, [*request.prompt, *generation.tokens])

    def _open_engine(self, needed: int) -> Engine:
        """The engine with a row for so many tokens; it keeps what the last turns have read."""
        longest, before = self.model.spec.max_seq_len, self._engine
        if before is not None and before.capacity >= min(needed, longest):
            return before
        state = None
        if before is None:
            state = None if self.cache is None else self.cache.read()
        elif before.keeps_rows and (rows := before.list_rows()):
            state = before.copy_row(rows[0])
        # A row for the longest context could be greater than all of the model.
        room = needed + max(needed, 0 if state is None else len(state.tokens))
        tokenizer = self.encoder.tokenizer
        self._engine = engine = Engine(
            self.model,
            tokenizer=tokenizer,
            rows=1,
            capacity=min(room, longest),
            vocab_size=tokenizer.vocab_size,
        )
        if state is not None:
            engine.restore_row(state)
        return engine

    def _fit_prompt(self, messages: list[Message]) -> tuple[list[int], int]:
        """Encode the prompt, without the oldest turns if the whole does not fit. -> ids, dropped"""
        head: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        longest = self.model.spec.max_seq_len
        room = longest - reserve_answer(longest, self.max_tokens)
        prompt, dropped = fit_conversation(self.encoder.encode_prompt, [*head, *messages], room)
        if len(prompt) <= room:
            return prompt, dropped
        raise HermesError(
            f"the message has {len(prompt)} tokens with its template, more than the model's "
            f"context of {longest} has room for beside an answer; shorten it"
        )

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
            value = load_json(read_bounded(path))
        except OSError as error:
            raise StorageError(f"cannot read {path}: {explain_os_error(error)}") from error
        except ValueError as error:
            raise DataError(f"{path}: not a conversation: {str(error)[:100]}") from None
        found = value.get("messages") if isinstance(value, dict) else None
        listed = found if isinstance(found, list) else []
        items = [m if isinstance(m, dict) else {} for m in listed]
        turns = [(item.get("role"), item.get("content")) for item in items]
        plain = isinstance(found, list) and all(isinstance(said, str) for _, said in turns)
        system = ""
        if turns and turns[0][0] == "system":
            system = str(turns.pop(0)[1])
        if not plain or [role for role, _ in turns] != ["user", "assistant"] * (len(turns) // 2):
            raise DataError(
                f"{path}: not a conversation of alternating user and assistant messages; give "
                "one that /save wrote"
            )
        messages: list[Message] = [{"role": role, "content": said} for role, said in turns]
        self.system, self.messages, self.num_dropped = system, messages, 0
