"""A backend that declines everything, politely: the shape of one, to be filled in from the top."""

from hermes.distributed.process_group import SINGLE_PROCESS
from hermes.errors import Unsupported
from hermes.interface import Options


class Backend:
    """hermes_mine."""

    name = "mine"

    def versions(self):
        """Version by library, for records and certificates."""
        return {"hermes-mine": "0.1.0"}

    def devices(self):
        """The devices at hand, the preferred one first."""
        return ("cpu",)

    def build(self, spec, params, options=Options(), process_group=SINGLE_PROCESS):
        """Step 1: a Model with `spec` and `logits`. Take weights one at a time from `params`."""
        if options.precision != "float64":
            raise Unsupported(f"hermes_mine does not compute in {options.precision} yet")
        for number, block in enumerate(spec.layers):  # every number is filled in there
            if block.attention.window_size is not None:
                raise Unsupported(f"hermes_mine does not build windows yet (layers.{number})")
        return Model(spec, params)

    def join(self, rank_info, options=Options()):
        """Step 6: meet the other processes of a run."""
        raise Unsupported("hermes_mine works in one process")

    def learner(self, spec, state, recipe, options=Options(), process_group=SINGLE_PROCESS):
        """Steps 4 and 5: a Model with `grads`, `step` and `state`."""
        raise Unsupported("hermes_mine does not train yet")


class Model:
    """A built model."""

    def __init__(self, spec, params):
        self.spec = spec
        self._params = params

    def logits(self, tokens, segments=None):
        """Step 1: scores of the next token at every position. (B, T) -> (B, T, V)."""
        raise Unsupported("hermes_mine has no forward pass yet")

    def logprobs(self, tokens, targets):
        """Step 2: log-probability of each target, 0 where IGNORE. (B, T) -> (B, T)."""
        raise Unsupported("hermes_mine has no log-probabilities yet")

    def row_logprobs(self, tokens, targets):
        """Step 2: each row's sum of them. -> (B,)."""
        raise Unsupported("hermes_mine has no log-probabilities yet")

    def loss(self, batch):
        """Step 2: nats per counted target over all micro-batches."""
        raise Unsupported("hermes_mine has no loss yet")

    def preferences(self, batch):
        """Step 2: of a batch of pairs its loss, and of each row what row_logprobs gives. (A, B)"""
        raise Unsupported("hermes_mine has no loss of pairs yet")

    def params(self):
        """Step 2: the weights by name, in the order of `list_parameters(spec)`."""
        return self._params

    def decoder(self, batch_size, capacity):
        """Step 3: a KV cache; `advance(tokens)` gives the last position's logits, (B, V)."""
        raise Unsupported("hermes_mine has no cache yet")


BACKEND = Backend()
