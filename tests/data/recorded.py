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


@contextmanager
def record_validation():
    """A list that gets every row of every validation: its tokens with the last target."""
    from hermes.data.document_dataset import DocumentDataset
    from hermes.data.text_dataset import TextDataset

    rows = []

    def observe(iterate):
        def iterate_validation(self, *args, **kwargs):
            for batch in iterate(self, *args, **kwargs):
                rows.extend(list_rows(batch.tokens, batch.targets))
                yield batch

        return iterate_validation

    with pytest.MonkeyPatch.context() as patch:
        for kind in (DocumentDataset, TextDataset):
            patch.setattr(kind, "iterate_validation", observe(kind.iterate_validation))
        yield rows


def list_rows(tokens, targets):
    """The rows that have targets, as their tokens and the last target, without padding."""
    width = tokens.shape[-1]
    found = []
    for own, following in zip(tokens.reshape(-1, width), targets.reshape(-1, width), strict=True):
        if count := int((following >= 0).sum()):
            found.append([*own[:count].tolist(), int(following[count - 1])])
    return found
