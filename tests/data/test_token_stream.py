"""Token streams: complete, in files that go away, and the same in every process."""

import numpy as np
import pytest

from hermes.data import (
    TokenStream,
    read_documents,
    tokenize,
)
from hermes.errors import DataError, StorageError
from hermes.tokenizer import train_tokenizer
from hermes.tokenizer.bytelevel import PIECE
from tests.data.support import TEXT, corpus


def test_an_end_of_text_follows_each_document(tokenizer):
    with tokenize(corpus("the cat", "a dog"), tokenizer) as stream:
        expected = [*tokenizer.encode("the cat"), 1, *tokenizer.encode("a dog"), 1]
        assert stream.tokens.tolist() == expected
        assert (stream.documents, stream.text_bytes, len(stream)) == (2, 12, len(expected))
        assert stream.largest == max(expected)


def test_the_name_of_a_special_token_in_a_document_does_not_end_it(tokenizer):
    with tokenize(corpus("the <|eos|> cat"), tokenizer) as stream:
        assert stream.tokens.tolist().count(1) == 1


def test_a_long_file_is_one_document(tmp_path, tokenizer):
    text = TEXT * (3 * PIECE // len(TEXT))
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8", newline="")
    assert len(list(read_documents(path))) > 1
    with tokenize(read_documents(path), tokenizer) as stream:
        assert (stream.documents, stream.text_bytes) == (1, len(text.encode()))
        assert np.flatnonzero(stream.tokens == 1).tolist() == [len(stream) - 1]


def test_the_fingerprint_is_of_ids_and_tokenizer(tokenizer):
    other = train_tokenizer([TEXT], vocab_size=300, preset="qwen2")
    same = [tokenize(corpus("a", "b"), tokenizer).fingerprint for _ in range(2)]
    differ = {
        tokenize(corpus("a", "c"), tokenizer).fingerprint,
        tokenize(corpus("ab"), tokenizer).fingerprint,
        tokenize(corpus("a", "b"), other).fingerprint,
    }
    assert same[0] == same[1]
    assert len(differ - set(same)) == 3


def test_ids_beyond_two_bytes_are_kept(tokenizer):
    class Wide:
        vocab_size, eos_id, fingerprint, beginning = 100_000, 99_999, "w", ()

        def encode_batch(self, texts, continued):
            return [[70_000] for _ in texts]

    with tokenize(corpus("a"), Wide()) as stream:
        assert stream.tokens.tolist() == [70_000, 99_999]


def test_the_temporary_file_goes_with_the_stream(tokenizer, tmp_path):
    stream = tokenize(corpus("the cat"), tokenizer, directory=tmp_path)
    assert stream.folder.parent == tmp_path
    stream.close()
    assert list(tmp_path.iterdir()) == []
    stream = tokenize(corpus("the cat"), tokenizer, directory=tmp_path)
    del stream
    assert list(tmp_path.iterdir()) == []


def test_a_failure_half_way_leaves_no_file(tokenizer, tmp_path):
    def failing():
        yield from corpus("the cat")
        raise DataError("a.txt:2: broken")

    with pytest.raises(DataError, match=r"^a.txt:2: broken$"):
        tokenize(failing(), tokenizer, directory=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_text_and_no_folder_are_refused(tokenizer, tmp_path):
    with pytest.raises(DataError, match=r"^there is no text to tokenize"):
        tokenize([], tokenizer)
    with pytest.raises(StorageError, match=r"^cannot write tokens to .*none: no such file"):
        tokenize(corpus("a"), tokenizer, directory=tmp_path / "none")


def test_a_full_disk_is_a_storage_error_and_leaves_nothing(tokenizer, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hermes.data.token_stream._write", full)
    with pytest.raises(StorageError, match=r"^cannot write tokens to .*: no space left on device$"):
        tokenize(corpus("a"), tokenizer, directory=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_ends_no_text_is_refused():
    endless = train_tokenizer([TEXT], vocab_size=300, special_tokens=["<unk>"])
    with pytest.raises(DataError, match=r"^the tokenizer has no token that ends a text"):
        tokenize(corpus("a", "b"), endless)


def test_one_text_needs_no_token_that_ends_it():
    endless = train_tokenizer([TEXT], vocab_size=300, special_tokens=["<unk>"])
    with tokenize(corpus("the cat"), endless) as stream:
        assert stream.tokens.tolist() == endless.encode("the cat")


def test_another_process_opens_the_same_stream(tokenizer):
    with tokenize(corpus("the cat"), tokenizer) as stream:
        again = TokenStream.open(stream.folder)
        assert again.tokens.tolist() == stream.tokens.tolist()
        assert again.fingerprint == stream.fingerprint
        del again
        assert stream.folder.exists()


def test_a_torn_stream_is_refused(tokenizer, tmp_path):
    with tokenize(corpus("the cat"), tokenizer, directory=tmp_path) as stream:
        file = stream.folder / "tokens.bin"
        whole = file.read_bytes()
        file.write_bytes(whole[:-2])
        with pytest.raises(
            DataError, match=r"tokens where .* were written; tokenize the text again$"
        ):
            TokenStream.open(stream.folder)
        file.write_bytes(whole[:-1])
        with pytest.raises(DataError, match=r"not a folder of tokens"):
            TokenStream.open(stream.folder)
    with pytest.raises(StorageError, match=r"^cannot read tokens in .*: no such file"):
        TokenStream.open(tmp_path)
