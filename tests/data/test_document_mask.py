"""Documents in a row of text: masked from each other, and validation text of its own."""

import numpy as np
import pytest

import hermes
from hermes.data import Cursor, TextDataset, TokenStream
from hermes.errors import DataError
from hermes.interface import IGNORE, Batch, Options, choose_backend
from hermes.numerics.params import init_weights

EOS = 1
DOCUMENTS = [[5, 6, 7, 8, EOS], [9, EOS], [10, 11, 12, 13, 14, 15, EOS], [16, 17, EOS]]
SPEC = """model little { max_seq_len: 32 hidden_size: 16 num_layers: 2 vocab_size: 32
  block: { attention: { num_heads: 2 num_kv_heads: 1 } ffn: { hidden_dim: 24 } } }"""


def count_by(lengths):
    """Count the bytes of ids by their lengths, as a tokenizer does."""
    return lambda ids, counted: int(lengths[np.asarray(ids)][counted].sum())


def make_dataset(**options):
    ids = [token for document in DOCUMENTS for token in document]
    stream = TokenStream.from_ids(ids)
    return TextDataset(stream, seq_len=len(ids) - 1, vocab_size=32, eos_id=EOS, **options)


def test_a_segment_is_a_document_and_its_end_has_no_target():
    batch, _ = make_dataset(document_mask=True).draw_batch(
        Cursor(), samples=1, micro_batch=1, accum=1
    )
    (tokens,), (targets,), (segments,) = batch.tokens[0], batch.targets[0], batch.segments[0]
    expected = [number for number, document in enumerate(DOCUMENTS) for _ in document][:-1]
    assert segments.tolist() == expected
    assert targets[tokens == EOS].tolist() == [IGNORE] * 3
    others = tokens != EOS
    assert targets[others].tolist() == [token for document in DOCUMENTS for token in document[1:]]
    plain, _ = make_dataset().draw_batch(Cursor(), samples=1, micro_batch=1, accum=1)
    assert plain.segments is None


@pytest.mark.parametrize("backend", ["numpy", "torch", "mlx"])
def test_the_loss_of_a_row_is_that_of_its_documents_one_at_a_time(backend):
    spec = hermes.load_spec(SPEC)
    precision = "float64"
    model = choose_backend(backend).build(
        spec, init_weights(spec, 0), Options(device="cpu", precision=precision)
    )
    batch, _ = make_dataset(document_mask=True).draw_batch(
        Cursor(), samples=1, micro_batch=1, accum=1
    )
    together = model.loss(batch) * batch.num_terms
    alone = 0.0
    for document in DOCUMENTS:
        rows = np.array([[document]], np.int32)
        one = Batch(rows[..., :-1], rows[..., 1:], np.zeros((1, 1), np.uint32))
        alone += model.loss(one) * one.num_terms
    assert batch.num_terms == sum(len(document) - 1 for document in DOCUMENTS)
    assert together == pytest.approx(alone, rel=1e-9)
    plain, _ = make_dataset().draw_batch(Cursor(), samples=1, micro_batch=1, accum=1)
    assert abs(model.loss(plain) * plain.num_terms - alone) > 0.1


def test_the_mask_counts_only_the_bytes_of_targets():
    stream = TokenStream.from_ids([token for document in DOCUMENTS for token in document] * 2)
    lengths = np.ones(32, np.int64)
    counted = []
    for mask in (False, True):
        data = TextDataset(
            stream, seq_len=8, vocab_size=32, val_fraction=0.5, eos_id=EOS, document_mask=mask
        )
        (batch,) = data.iterate_validation(len(data.held_out))
        counted.append(data.count_validation_bytes(count_by(lengths)))
        assert counted[-1] == batch.num_targets
    assert counted[1] < counted[0]


def test_validation_text_of_its_own_is_all_held_out():
    train, other = TokenStream.from_ids(range(101)), TokenStream.from_ids(range(200, 241))
    data = TextDataset(train, seq_len=10, vocab_size=300, validation=other)
    assert (data.train, data.held_out) == (range(10), range(4))
    rows = np.concatenate([batch.tokens[0] for batch in data.iterate_validation(2)])
    assert sorted(rows.ravel().tolist()) == list(range(200, 240))
    assert data.count_validation_bytes(count_by(np.arange(300))) == sum(range(201, 241))
    drawn, _ = data.draw_batch(Cursor(), samples=10, micro_batch=10, accum=1)
    assert drawn.tokens.max() < 101
    with pytest.raises(DataError, match=r"^--val-data and --val-fraction are given; keep one"):
        TextDataset(train, seq_len=10, vocab_size=300, validation=other, val_fraction=0.1)
    with pytest.raises(DataError, match=r"^the data has token id 240, outside the model's"):
        TextDataset(train, seq_len=10, vocab_size=200, validation=other)
