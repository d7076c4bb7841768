"""One document a row: padded, never cut in silence, and held out whole."""

import numpy as np
import pytest

import hermes
from hermes.data import Cursor, TextDataset, TokenStream
from hermes.data.document_dataset import DocumentDataset
from hermes.data.fitted_documents import FittedDocuments
from hermes.data.holding_out import split_at_document
from hermes.data.stream_index import open_stream_index, scan_documents
from hermes.errors import DataError, HermesError
from hermes.interface import IGNORE, Batch, Options, choose_backend
from hermes.numerics.params import init_weights
from hermes.training.metrics_file import read_metrics
from tests.data.test_document_mask import SPEC, count_by
from tests.training.support import SPEC as LITTLE

EOS = 1
LENGTHS = (5, 2, 7, 1, 4, 9, 3, 6, 2, 8)  # with their ends; one has its end alone
DOCUMENTS = [[10 + n] * (length - 1) + [EOS] for n, length in enumerate(LENGTHS)]
STREAM = TokenStream.from_ids([token for one in DOCUMENTS for token in one])
OPTIONS = {"seq_len": 8, "vocab_size": 32, "eos_id": EOS, "seed": 3}


def list_documents(batch):
    """The documents of a batch's rows, with their last targets, of rows that have some."""
    rows = zip(batch.tokens.reshape(-1, batch.tokens.shape[-1]),
               batch.targets.reshape(-1, batch.tokens.shape[-1]), strict=True)  # fmt: skip
    found = []
    for tokens, targets in rows:
        count = int((targets != IGNORE).sum())
        assert (targets[count:] == IGNORE).all()
        assert not tokens[count:].any()
        assert tokens[1:count].tolist() == targets[: max(count - 1, 0)].tolist()
        if count:
            found.append([*tokens[:count].tolist(), int(targets[count - 1])])
    return found


def test_documents_are_found_whether_the_last_one_ends_or_not():
    index = open_stream_index(STREAM, EOS)
    assert index.read_lengths(0, len(index)).tolist() == list(LENGTHS)
    open_end = open_stream_index(TokenStream.from_ids([7, 7, EOS, 8, 8]), EOS)
    assert open_end.find_starts(np.arange(3)).tolist() == [0, 3, 5]


def test_documents_of_token_files_are_found_wherever_a_file_or_a_block_ends():
    ids = STREAM.tokens
    for cut in range(1, len(ids)):
        for block in (1, 3, len(ids)):
            files = [
                (name, [part[at : at + block] for at in range(0, len(part), block)])
                for name, part in (("a", ids[:cut]), ("b", ids[cut:]))
            ]
            index = scan_documents(files, EOS)
            assert index.read_lengths(0, len(index)).tolist() == list(LENGTHS)
            assert index.find_starts(np.arange(len(LENGTHS) + 1)).tolist() == [
                sum(LENGTHS[:n]) for n in range(len(LENGTHS) + 1)
            ]
            assert index.read_lengths(3, 8).tolist() == list(LENGTHS[3:8])
            places = [(index.read(n).source, index.read(n).line) for n in range(len(index))]
            first = sum(one[0] == "a" for one in places)
            assert places == [
                *(("a", n + 1) for n in range(first)),
                *(("b", n + 1) for n in range(len(LENGTHS) - first)),
            ]


@pytest.mark.parametrize("overlong", ["drop", "truncate"])
def test_documents_that_fit_are_found_among_others_both_ways(overlong):
    """Many blocks of documents, of which some fit: as a table of all would have it."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 9, 5000)
    lengths[2000:3500] = 1  # a whole block in which none fits
    ids = np.full(lengths.sum(), 7)
    ids[np.cumsum(lengths) - 1] = EOS
    fitted = FittedDocuments(open_stream_index(TokenStream.from_ids(ids), EOS), 5, overlong)
    fits = (lengths > 1) & ((lengths <= 6) | (overlong == "truncate"))
    kept = np.flatnonzero(fits)
    assert len(fitted) == len(kept)
    numbers = draw.permutation(len(kept))
    assert (fitted.find_documents(numbers) == kept[numbers]).all()
    starts, rows = fitted.locate(numbers)
    assert (starts == (np.cumsum(lengths) - lengths)[kept[numbers]]).all()
    assert (rows == np.minimum(lengths, 6)[kept[numbers]]).all()
    for document in range(5000):
        found = fitted.find_number(document)
        assert found == (int(np.searchsorted(kept, document)) if fits[document] else None)


def test_every_row_is_a_document_and_every_document_comes_once_an_epoch():
    data = DocumentDataset(STREAM, **OPTIONS)
    assert data.describe() == ["1 document of one token is left out"]
    expected = sorted(one for one in DOCUMENTS if len(one) > 1)
    for epoch in (0, 1):
        batch, after = data.draw_batch(Cursor(epoch, 0), samples=9, micro_batch=5, accum=2)
        assert sorted(list_documents(batch)) == expected
        assert batch.counts.terms == sum(len(one) - 1 for one in expected) == batch.num_targets
        assert after == Cursor(epoch + 1, 0)


def test_a_step_has_the_same_documents_however_it_is_split():
    data = DocumentDataset(STREAM, **OPTIONS)
    whole, _ = data.draw_batch(Cursor(), samples=7, micro_batch=8, accum=1)
    for micro_batch, accum, world_size in ((1, 8, 1), (2, 2, 2), (1, 1, 8)):
        own = {}
        for rank in range(world_size):
            batch, _ = data.draw_batch(
                Cursor(), samples=7, micro_batch=micro_batch, accum=accum, rank=rank,
                world_size=world_size,
            )  # fmt: skip
            assert batch.tokens.shape[-1] == whole.tokens.shape[-1]
            assert batch.counts == whole.counts
            rows = batch.tokens.reshape(-1, batch.tokens.shape[-1]).tolist()
            own |= dict(zip(batch.rows.ravel().tolist(), rows, strict=True))
        assert [own[row] for row in range(8)] == whole.tokens[0].tolist()


def test_documents_longer_than_a_row_are_refused_left_out_or_cut_with_their_share():
    options = OPTIONS | {"seq_len": 5}
    with pytest.raises(DataError) as error:
        DocumentDataset(STREAM, **options)
    assert str(error.value) == (
        "3 documents of 10 have more tokens than --seq-len 5 has room for, up to 9; choose a "
        "longer one, --overlong drop or truncate, or leave --no-pack out"
    )
    dropped = DocumentDataset(STREAM, **options, overlong="drop")
    assert len(dropped.train) == 6
    assert dropped.describe()[0] == (
        "3 documents longer than 5 targets are left out: 51.1% of all tokens are not trained on"
    )
    cut = DocumentDataset(STREAM, **options, overlong="truncate")
    assert len(cut.train) == 9
    assert cut.describe()[0] == (
        "3 documents longer than 5 targets are cut at the end: 12.8% of all tokens are not "
        "trained on"
    )
    batch, _ = cut.draw_batch(Cursor(), samples=9, micro_batch=9, accum=1)
    assert sorted(list_documents(batch)) == sorted(one[:6] for one in DOCUMENTS if len(one) > 1)
    with pytest.raises(DataError, match=r"^no document is left of 1: each has more tokens"):
        DocumentDataset(TokenStream.from_ids([2] * 20), **options, overlong="drop")
    with pytest.raises(DataError, match=r"^overlong is 'cut'; it must be one of error, drop"):
        DocumentDataset(STREAM, **options, overlong="cut")
    with pytest.raises(DataError, match=r"^--no-pack needs a tokenizer with a token that ends"):
        DocumentDataset(STREAM, **options | {"eos_id": None})


def test_whole_documents_are_held_out():
    data = DocumentDataset(STREAM, **OPTIONS, val_fraction=0.3)
    assert (len(data.train), len(data.held_out)) == (6, 3)
    held_out = [one for batch in data.iterate_validation(2) for one in list_documents(batch)]
    trained = list_documents(data.draw_batch(Cursor(), samples=6, micro_batch=6, accum=1)[0])
    assert sorted(held_out + trained) == sorted(one for one in DOCUMENTS if len(one) > 1)
    targets = sum(len(one) - 1 for one in held_out)
    assert data.count_validation_bytes(count_by(np.ones(32, np.int64))) == targets
    own = DocumentDataset(STREAM, **OPTIONS, validation=TokenStream.from_ids([4, 5, EOS]))
    assert (len(own.train), own.held_out) == (9, range(1))
    assert [list_documents(batch) for batch in own.iterate_validation(2)] == [[[4, 5, EOS]]]


@pytest.mark.parametrize("backend", ["numpy", "torch", "mlx"])
def test_the_loss_of_padded_rows_is_that_of_the_documents_alone_and_of_packed_ones(backend):
    spec = hermes.load_spec(SPEC.replace("max_seq_len: 32", "max_seq_len: 64"))
    model = choose_backend(backend).build(
        spec, init_weights(spec, 0), Options(device="cpu", precision="float64")
    )
    batch, _ = DocumentDataset(STREAM, **OPTIONS).draw_batch(
        Cursor(), samples=9, micro_batch=3, accum=3
    )
    alone = 0.0
    for document in DOCUMENTS:
        rows = np.array([[document]], np.int32)
        if len(document) > 1:
            one = Batch(rows[..., :-1], rows[..., 1:], np.zeros((1, 1), np.uint32))
            alone += model.loss(one) * one.num_terms
    assert model.loss(batch) * batch.num_terms == pytest.approx(alone, rel=1e-12)
    packed, _ = TextDataset(
        STREAM, seq_len=len(STREAM) - 1, vocab_size=32, document_mask=True, eos_id=EOS
    ).draw_batch(Cursor(), samples=1, micro_batch=1, accum=1)
    assert model.loss(packed) * packed.num_terms == pytest.approx(alone, rel=1e-9)


def test_windows_can_hold_out_whole_documents():
    train, held_out = split_at_document(STREAM, 0.25, EOS)
    ids = [*train.tokens[:], *held_out.tokens[:]]
    assert ids == STREAM.tokens.tolist()
    assert train.tokens[-1:].tolist() == [EOS]
    assert len(held_out) == 16  # the last 12 begin within a document of 6, which is held out whole
    assert held_out.tokens[2:7:2].tolist() == STREAM.tokens[33:38:2].tolist()
    with pytest.raises(DataError, match=r"^the text has no document that ends before its last"):
        split_at_document(TokenStream.from_ids([3] * 50 + [EOS]), 0.1, EOS)
    with pytest.raises(DataError, match=r"^--hold-out documents needs a tokenizer with a token"):
        split_at_document(STREAM, 0.1, None)


@pytest.fixture
def lines(tmp_path, monkeypatch):
    """Sentences of several lengths, a document a line, and their tokenizer."""
    monkeypatch.chdir(tmp_path)
    text = "\n".join(f"the cat sat on mat {n} " * (1 + n % 3) for n in range(60))
    (tmp_path / "lines.txt").write_text(text)
    return hermes.train_tokenizer("lines.txt", vocab_size=290)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_run_on_documents_is_resumed_to_the_bit(lines, backend):
    given = {"tokenizer": lines, "documents": "lines", "batch_size": 4, "max_steps": 6,
             "val_fraction": 0.1, "pack": False, "overlong": "truncate", "seq_len": 16,
             "backend": backend}  # fmt: skip
    whole = hermes.train(LITTLE, "lines.txt", output="whole", **given)
    assert any("documents longer than 16 targets are cut at the end" in n for n in whole.notes)
    hermes.train(LITTLE, "lines.txt", output="parts", **given | {"max_steps": 3})
    shorter = {name: given[name] for name in ("tokenizer", "documents", "backend")}
    hermes.train(LITTLE, "lines.txt", output="parts", resume=True, max_steps=6, **shorter)
    first, second = (
        [line["loss"] for line in read_metrics(whole.output.parent / run) if "loss" in line]
        for run in ("whole", "parts")
    )
    assert first == second
    with pytest.raises(HermesError, match=r"^overlong is 'truncate' in .*run.yaml and 'drop' here"):
        hermes.train(LITTLE, "lines.txt", output="parts", resume=True, max_steps=8,
                     **shorter, overlong="drop")  # fmt: skip


def test_what_has_no_meaning_together_is_refused(lines):
    given = {"tokenizer": lines, "documents": "lines", "backend": "torch", "output": "run"}
    with pytest.raises(HermesError, match=r"^pack=False has one document a row, so leave document"):
        hermes.train(LITTLE, "lines.txt", pack=False, document_mask=True, **given)
    with pytest.raises(HermesError, match=r"^overlong is for documents longer than a row; packed"):
        hermes.train(LITTLE, "lines.txt", overlong="drop", **given)
    with pytest.raises(HermesError, match=r"^pack=False takes one source, and weights are given"):
        hermes.train(LITTLE, ["lines.txt:1", "lines.txt:2"], pack=False, **given)
    with pytest.raises(HermesError, match=r"^hold_out is 'rows'; it must be one of windows, doc"):
        hermes.train(LITTLE, "lines.txt", hold_out="rows", **given)
    with pytest.raises(HermesError, match=r"^hold_out documents says what val_fraction holds out"):
        hermes.train(LITTLE, "lines.txt", hold_out="documents", **given)


def test_a_run_holds_out_documents(lines):
    given = {"tokenizer": lines, "documents": "lines", "backend": "torch", "val_fraction": 0.2,
             "max_steps": 1, "seq_len": 8, "batch_size": 2}  # fmt: skip
    windows = hermes.train(LITTLE, "lines.txt", output="windows", **given)
    documents = hermes.train(LITTLE, "lines.txt", output="run", hold_out="documents", **given)
    assert documents.val_loss != windows.val_loss
    with pytest.raises(HermesError, match=r"^hold_out is 'documents' in .*run.yaml and 'windows'"):
        hermes.train(LITTLE, "lines.txt", output="run", resume=True, hold_out="windows",
                     **given | {"max_steps": 2})  # fmt: skip
