"""The skeleton of a backend: every method is there and declines. Fill it in from the top."""

from typing import NoReturn

import numpy as np

from hermes.distributed.process_group import SINGLE_PROCESS, ProcessGroup, RankInfo
from hermes.errors import Unsupported
from hermes.interface import Batch, Options, Tensors, TrainState
from hermes.recipe import Recipe
from hermes.spec import ModelSpec


class Backend:
    """hermes_mine."""

    name = "mine"

    def versions(self) -> dict[str, str]:
        """Version by library, for records and certificates."""
        return {"hermes-mine": "0.1.0"}

    def devices(self) -> tuple[str, ...]:
        """The devices of this machine, the preferred one first."""
        return ("cpu",)

    def build(
        self,
        spec: ModelSpec,
        params: Tensors,
        options: Options = Options(),
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> "Model":
        """Step 1: a Model with `spec` and `logits`. Read weights one at a time from `params`."""
        if options.precision != "float64":
            raise Unsupported(f"hermes_mine does not compute in {options.precision} yet")
        for index, block in enumerate(spec.layers):  # in spec.layers every number is filled in
            if block.attention is not None and block.attention.window_size is not None:
                raise Unsupported(f"hermes_mine does not build windows yet (layers.{index})")
        return Model(spec, params)

    def join(self, rank_info: RankInfo, options: Options = Options()) -> NoReturn:
        """Step 6: join the other processes of the run; returns a ProcessGroup."""
        raise Unsupported("hermes_mine works in one process")

    def learner(
        self,
        spec: ModelSpec,
        state: TrainState,
        recipe: Recipe,
        options: Options = Options(),
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> NoReturn:
        """Steps 4 and 5: a Model with `grads`, `step` and `state`; see interface.Learner."""
        raise Unsupported("hermes_mine does not train yet")


class Model:
    """A built model."""

    def __init__(self, spec: ModelSpec, params: Tensors):
        self.spec = spec
        self._params = params

    def logits(self, tokens: np.ndarray, segments: np.ndarray | None = None) -> np.ndarray:
        """Step 1: scores of the next token at every position. (B, T) -> (B, T, V)."""
        raise Unsupported("hermes_mine has no forward pass yet")

    def logprobs(self, tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Step 2: log-probability of each target, 0 where IGNORE. (B, T) -> (B, T)."""
        raise Unsupported("hermes_mine has no log-probabilities yet")

    def row_logprobs(self, tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Step 2: logprobs summed over each row. (B, T) -> (B,)."""
        raise Unsupported("hermes_mine has no log-probabilities yet")

    def loss(self, batch: Batch) -> float:
        """Step 2: the mean loss over all micro-batches, in nats per target or loss per pair."""
        raise Unsupported("hermes_mine has no loss yet")

    def preferences(self, batch: Batch) -> tuple[float, np.ndarray]:
        """Step 2: a batch of pairs' loss, and row_logprobs of each micro-batch. (A, B)"""
        raise Unsupported("hermes_mine has no loss of pairs yet")

    def params(self) -> Tensors:
        """Step 2: the weights by name, in the order of `list_parameters(spec)`."""
        return self._params

    def decoder(self, batch_size: int, capacity: int) -> NoReturn:
        """Step 3: a KV cache; its `advance(tokens)` returns the logits after the last, (B, V)."""
        raise Unsupported("hermes_mine has no cache yet")


BACKEND = Backend()
