"""What runs really read: the batches that the learner of torch is given."""

from contextlib import contextmanager

import pytest

LITTLE = """model little { max_seq_len: 64 hidden_size: 8 num_layers: 1
  block: { attention: { num_heads: 1 } ffn: { hidden_dim: 8 } } }"""


@contextmanager
def record_batches():
    """A list that gets the tokens and targets (A, B, T) of every step."""
    from hermes_torch.learner import Learner

    batches, step = [], Learner.step

    def observe(self, batch, lr):
        batches.append((batch.tokens, batch.targets))
        return step(self, batch, lr)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", observe)
        yield batches
