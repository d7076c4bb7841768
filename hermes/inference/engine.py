"""Many texts at once: requests enter and leave the batch while others run.

Each request has a row of one KV cache, a sampler and a seed of its own, so what it says does not
depend on who shares the batch. One thread calls `step`, until nothing is left; others may call
`submit` and `cancel`. For asyncio, `async_engine` has a thread that does so.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from hermes.errors import HermesError
from hermes.formatting import format_count
from hermes.inference.decoding import check_lengths, choose_prefill_chunk, shift_context
from hermes.inference.engine_errors import DecodingFailed, QueueIsFull, describe_failure
from hermes.inference.invariant_reading import WholeChunks
from hermes.inference.prefixes import PrefixStore, RowState
from hermes.inference.request import Generation, Listener, Request
from hermes.inference.row_decoding import make_row_decoder, require_keeping
from hermes.inference.running_text import BegunStep, RunningText
from hermes.inference.sampler import Choice, Sampler
from hermes.interface import ChoosesAhead, ChoosesTokens, KeepsRows, Model, TokenChoice
from hermes.tokenizer import Tokenizer

__all__ = ["DecodingFailed", "Engine", "QueueIsFull"]

MOST_ROWS = 1 << 16  # what is kept of each would take the memory of the machine before its cache


class Engine:
    """Generates the texts of many requests, up to `rows` of them at once.

    capacity: tokens that a row may have, None for max_seq_len; rows times capacity bounds the
    memory of the cache, which is allocated once. max_queue: how many requests may wait.
    prefill_chunk: how many tokens of prompts are read between two tokens of those who write, None
    for as many as the device reads at once. tokenizer: makes text of tokens; None for tokens alone.
    vocab_size: only ids below it are chosen. batch_invariant: a text's logits are the same bits, in
    every precision, whoever shares it, for one `rows`, `capacity` and `prefill_chunk`; slower.
    """

    def __init__(
        self,
        model: Model,
        *,
        tokenizer: Tokenizer | None = None,
        rows: int = 16,
        capacity: int | None = None,
        max_queue: int = 1024,
        prefill_chunk: int | None = None,
        vocab_size: int | None = None,
        batch_invariant: bool = False,
    ):
        chunk = choose_prefill_chunk(model) if prefill_chunk is None else prefill_chunk
        for name, value in (("rows", rows), ("max_queue", max_queue), ("prefill_chunk", chunk)):
            if value < 1:
                raise HermesError(f"{name} must be at least 1, got {value}")
        if rows > MOST_ROWS:
            raise HermesError(f"rows must be at most {MOST_ROWS:,}, got {rows:,}")
        self.capacity = min(capacity or model.spec.max_seq_len, model.spec.max_seq_len)
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._max_queue, self._prefill_chunk = max_queue, chunk
        self.model = model
        self._decoder = make_row_decoder(
            model, rows, self.capacity, batch_invariant=batch_invariant
        )
        self._chunks = WholeChunks(model.spec, rows, chunk) if batch_invariant else None
        self._prefixes = PrefixStore(rows)
        self._planned = [0] * rows
        self._free = set(range(rows))
        self._active: list[RunningText] = []  # in the order of admission
        self._begun: BegunStep | None = None  # behind which the next one is begun
        self._lock = threading.Lock()  # of the queue, which other threads fill
        self._queue: deque[Generation] = deque()

    @property
    def num_rows(self) -> int:
        """How many texts can run at once."""
        return len(self._free) + len(self._active)

    @property
    def num_running(self) -> int:
        """Requests that have a row."""
        return len(self._active)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a row."""
        return len(self._queue)

    @property
    def has_free_row(self) -> bool:
        """Whether a request that is handed over now gets a row at the next step."""
        return self.num_waiting < min(len(self._free), self._max_queue)

    def submit(self, request: Request, listener: Listener | None = None) -> Generation:
        """Hand over a request; the order of handing over is that of beginning.

        listener: called with each piece, by the thread that calls `step`; must not raise. Raises
        HermesError, and QueueIsFull.
        """
        self.check(request)
        stream = self._tokenizer.stream(continued=request.continued) if self._tokenizer else None
        generation = Generation(request, stream, listener)
        with self._lock:
            if len(self._queue) >= self._max_queue:
                waiting = format_count(len(self._queue), "requests wait", "request waits")
                raise QueueIsFull(f"{waiting} already; try again later")
            self._queue.append(generation)
        return generation

    def check(self, request: Request) -> None:
        """Refuse what `submit` refuses, but for a full queue. Raises HermesError."""
        check_lengths(self.capacity, request.prompt, request.max_tokens, request.context_overflow)
        if request.stop and self._tokenizer is None:
            raise HermesError("stop strings need a tokenizer")
        self._make_sampler(request)

    def cancel(self, generation: Generation) -> None:
        """End a text at the next step, which frees its row; one that is done stays as it is."""
        generation.cancel_asked = True

    def step(self) -> bool:
        """Advance every text that writes by a token, and prompts by a chunk; whether more is left.

        Raises what the backend raises, after which all running texts have ended with an error.
        """
        try:
            self._drop_cancelled()
            self._admit()
            writing = [row for row in self._active if row.is_open and row.unread == 1]
            self._write(writing)
            self._prefill()
        except BaseException as error:  # Ctrl-C may come in the middle of a read, too
            self._fail(error)
            raise
        return bool(self._active or self._queue)

    def run(self) -> None:
        """Call `step` until all that was handed over is done."""
        while self.step():
            pass

    @property
    def keeps_rows(self) -> bool:
        """Whether the backend gives rows away, for `copy_row` and `restore_row`."""
        return isinstance(self._decoder, KeepsRows)

    def copy_row(self, tokens: Sequence[int]) -> RowState | None:
        """What the cache has of the row with most of a text's beginning; None for none.

        Not while `step` runs. Raises Unsupported where the backend keeps no rows.
        """
        row, length = self._prefixes.find_longest(-1, [*tokens, -1])
        if row is None or not length:
            return None
        return RowState(
            tuple(self._prefixes.get_tokens(row)),
            self._planned[row],
            require_keeping(self._decoder).read_row(row),
        )

    def restore_row(self, state: RowState) -> bool:
        """Give a free row what `copy_row` found, here or elsewhere. -> whether it could

        Not while `step` runs. Raises HermesError for a state of another model.
        """
        if not self._free:
            return False
        empty = [row for row in sorted(self._free) if not self._prefixes.get_tokens(row)]
        row = empty[0] if empty else self._prefixes.choose_row(self._free, state.tokens)
        self._prefixes.set_tokens(row, [])
        cache = require_keeping(self._decoder)
        if not cache.write_row(row, state.capacity, len(state.tokens), state.tensors):
            return False
        self._planned[row] = state.capacity
        self._prefixes.set_tokens(row, state.tokens)
        return True

    def list_rows(self) -> list[tuple[int, ...]]:
        """The tokens of each row that has any, those used last first."""
        return [tuple(self._prefixes.get_tokens(row)) for row in self._prefixes.list_by_use()]

    def _drop_cancelled(self) -> None:
        with self._lock:
            gone = [one for one in self._queue if one.cancel_asked]
            for one in gone:
                self._queue.remove(one)
        for one in gone:
            one.finish("cancelled")
        for row in [row for row in self._active if row.generation.cancel_asked]:
            self._finish(row, "cancelled")

    def _admit(self) -> None:
        """Give free rows to those who wait longest."""
        while self._free:
            with self._lock:
                if not self._queue:
                    return
                generation = self._queue.popleft()
            request = generation.request
            tokens = check_lengths(
                self.capacity, request.prompt, request.max_tokens, request.context_overflow
            )
            index = self._prefixes.choose_row(self._free, tokens)
            self._free.remove(index)
            self._active.append(RunningText(index, generation, self._make_sampler(request), tokens))

    def _make_sampler(self, request: Request) -> Sampler:
        return Sampler(
            request.sampling,
            request.prompt,
            seed=request.seed,
            completion=request.completion,
            endings=request.stop_ids,
            vocab_size=self._vocab_size,
            logprobs=request.logprobs,
            grammar=request.grammar,
        )

    def _prefill(self) -> None:
        """Read chunks of prompts, as much of each as of the others."""
        reading = [row for row in self._active if row.unread > 1 or not row.is_open]
        reading = [row for row in reading if row.is_open or self._open(row)]
        if not reading:
            return
        if self._chunks is not None:
            reads = self._chunks.choose_reads(
                [row.index for row in reading], [row.unread for row in reading]
            )
            self._read([reading[index] for index, _ in reads], [count for _, count in reads])
            return
        share = max(self._prefill_chunk // len(reading), 1)
        reading = reading[: self._prefill_chunk]
        self._read(reading, [min(share, row.unread) for row in reading])

    def _open(self, row: RunningText) -> bool:
        """Begin a row with what others have read of its prompt; False to wait for one that will."""
        source, length = self._prefixes.find_longest(row.index, row.tokens)
        if self._chunks is not None and source is not None:
            length = self._chunks.limit_shared(length, source)
        for other in self._active:
            if other is row:
                break
            # Who began earlier and has the same tokens ahead reads them for both.
            common = self._prefixes.count_common(other.tokens, row.tokens)
            if self._chunks is not None:
                common = self._chunks.limit_shared(common)
            if other.read < common and common > length:
                return False
        request = row.generation.request
        planned = min(self.capacity, len(row.tokens) + request.max_tokens - 1)
        self._planned[row.index] = planned
        row.read = self._decoder.open_row(row.index, planned, source=source, length=length)
        row.generation.num_reused = row.read
        if self._chunks is not None:
            self._chunks.open_row(row.index, row.read)
        row.is_open = True
        self._prefixes.set_tokens(row.index, row.tokens[: row.read])
        return True

    def _write(self, writing: list[RunningText]) -> None:
        """Read and choose a token of each text that writes.

        A device that chooses by itself has the next step before the host reads the tokens of this
        one. A text that then ends has had a step too many, which is forgotten. writing: those whose
        next token the host knows; those of the step that was begun have theirs on the device.
        """
        begun, self._begun = self._begun, None
        if begun is None and (begun := self._begin([], writing)) is not None:
            writing = []
        if begun is not None:
            known = [row for row in begun.rows if row in self._active]
            going = [row for row in known if row.has_room(self.capacity)]
            self._begun = self._begin(going, writing)
            if self._begun is not None:
                writing = []
            for row, token in zip(begun.rows, begun.read().tolist(), strict=True):
                if row in known:
                    self._take(row, token)
        # One of them needs the host, by which all are read from the next step on.
        self._read(writing, [1] * len(writing))
        if self._begun and not any(row in self._active for row in self._begun.rows):
            self._begun = None

    def _begin(self, going: list[RunningText], writing: list[RunningText]) -> BegunStep | None:
        """Begin a step of a token each; None where there is none, or where one needs the host.

        going: those whose token the device has chosen in the step before.
        """
        rows, decoder = [*going, *writing], self._decoder
        settings = self._describe_choices([row.sampler for row in rows])
        if not rows or not settings or not isinstance(decoder, ChoosesAhead):
            return None
        tokens = [-1] * len(going)
        for row in writing:
            tokens.append(row.tokens[row.read])
            row.read += 1
            self._prefixes.add_tokens(row.index, tokens[-1:])
        uniforms = [row.sampler.draw_uniform(ahead=1) for row in going]
        uniforms += [row.sampler.draw_uniform() for row in writing]
        limit = rows[0].sampler.limit_vocabulary(self.model.spec.vocab_size)
        indices = [row.index for row in rows]
        read = decoder.begin_choice(indices, np.array(tokens, np.int32), settings, uniforms, limit)
        return BegunStep(rows, read)

    def _take(self, row: RunningText, token: int) -> None:
        """Take a token that the device chose, and has read already if the row is in a new step."""
        self._add_choice(row, partial(row.sampler.take, token))
        if self._begun is None or row not in self._begun.rows:
            return
        if token < 0:
            self._prefixes.set_tokens(row.index, [])
        else:
            row.read += 1
            self._prefixes.add_tokens(row.index, [token])

    def _read(self, rows: list[RunningText], counts: list[int]) -> None:
        """Read the next tokens of these rows, and choose where all of a row's are read."""
        if not rows:
            return
        tokens = np.zeros((len(rows), max(counts)), np.int32)
        for b, (row, count) in enumerate(zip(rows, counts, strict=True)):
            new = row.tokens[row.read : row.read + count]
            tokens[b, :count] = new
            if self._chunks is not None:
                self._chunks.count_read(row.index, row.read, count)
            row.read += count
            self._prefixes.add_tokens(row.index, new)
        indices, samplers = [row.index for row in rows], [row.sampler for row in rows]
        whole = all(row.unread == 0 for row in rows)
        if whole and (settings := self._describe_choices(samplers)) is not None:
            assert isinstance(self._decoder, ChoosesTokens)
            uniforms = [sampler.draw_uniform() for sampler in samplers]
            limit = samplers[0].limit_vocabulary(self.model.spec.vocab_size)
            found = self._decoder.choose(indices, tokens, counts, settings, uniforms, limit)
            for row, token in zip(rows, found.tolist(), strict=True):
                self._add_choice(row, partial(row.sampler.take, token))
            return
        logits = self._decoder.advance(indices, tokens, counts)
        for b, row in enumerate(rows):
            if row.unread == 0:
                self._choose(row, logits[b])

    def _describe_choices(self, samplers: list[Sampler]) -> list[TokenChoice] | None:
        """How a device chooses for all of them; None where it cannot for one."""
        if not isinstance(self._decoder, ChoosesTokens):
            return None
        found = [sampler.describe_choice() for sampler in samplers]
        settings = [one for one in found if one is not None]
        return settings if len(settings) == len(found) else None

    def _choose(self, row: RunningText, logits: "np.typing.NDArray[np.floating]") -> None:
        self._add_choice(row, partial(row.sampler.choose, logits))

    def _add_choice(self, row: RunningText, choose: Callable[[], Choice]) -> None:
        generation, request = row.generation, row.generation.request
        try:
            choice = choose()
        except HermesError as error:
            self._finish(row, "error", error)
            return
        if choice.token in request.stop_ids:
            generation.ending = choice
            self._finish(row, "stop")
            return
        generation.add(choice)
        if generation.is_done:
            self._release(row)
        elif row.sampler.is_complete:
            self._finish(row, "stop")
        elif len(generation.choices) >= request.max_tokens:
            self._finish(row, "length")
        elif len(row.tokens) < self.capacity:
            row.tokens.append(choice.token)
        elif request.context_overflow == "stop":
            generation.context_is_full = True
            self._finish(row, "length")
        else:
            row.tokens = shift_context([*row.tokens, choice.token], self.capacity)
            row.read, row.is_open = 0, False
            self._prefixes.set_tokens(row.index, [])

    def _finish(self, row: RunningText, reason: str, error: HermesError | None = None) -> None:
        self._release(row)
        row.generation.finish(reason, error)

    def _release(self, row: RunningText) -> None:
        self._active.remove(row)
        self._free.add(row.index)

    def _fail(self, error: BaseException) -> None:
        """End all running texts, whose rows are in no known state."""
        self._begun = None
        known = error if isinstance(error, HermesError) else describe_failure(error)
        for row in list(self._active):
            self._prefixes.set_tokens(row.index, [])
            self._finish(row, "error", known)
