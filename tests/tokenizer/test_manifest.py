"""The manifest of a trained tokenizer goes wherever it goes, and says whether it fits."""

import json

import pytest

import hermes
from hermes.checkpoint import open_checkpoint
from hermes.data.document_reader import TextFormat
from hermes.errors import DataError
from hermes.tokenizer import Tokenizer, save_split, train_tokenizer
from hermes.tokenizer.training import Settings
from hermes.training.new_tokenizer import TokenizerTraining
from tests.data.recorded import LITTLE

TEXT = "the cat sat on the mat, naïve as it was.\n" * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "a.txt").write_text(TEXT)
    (folder / "b.jsonl").write_text(json.dumps({"text": TEXT}) + "\n")
    made = hermes.train_tokenizer([folder / "a.txt", folder / "b.jsonl"], vocab_size=280)
    made.save(folder / "tokenizer.json")
    return folder


def training(**others):
    return TokenizerTraining(TextFormat(), Settings(vocab_size=280, **others))


def test_a_manifest_is_read_with_its_tokenizer_and_no_other(folder, tmp_path):
    loaded = Tokenizer.load(folder / "tokenizer.json")
    assert loaded.manifest["fingerprint"] == loaded.fingerprint
    assert [len(one["sha256"]) for one in loaded.manifest["inputs"]] == [64, 64]
    assert loaded.manifest["finished"].endswith("Z")
    assert loaded.manifest["seconds"] >= 0
    assert loaded.manifest["reading"]["documents"] == "file"
    assert Tokenizer.load(folder).manifest == loaded.manifest
    assert loaded.replace_roles(eos="<|pad|>").manifest == loaded.manifest
    other = train_tokenizer([TEXT], vocab_size=270)
    assert other.manifest is None
    loaded.save(tmp_path / "t.json")
    (tmp_path / "t.json").write_text(other.to_json())  # beside another's manifest
    assert Tokenizer.load(tmp_path / "t.json").manifest is None
    (tmp_path / "t.manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer\.manifest\.json"):
        Tokenizer.load(tmp_path / "t.json")


def test_every_checkpoint_has_it_and_a_resumed_run_keeps_it(folder, tmp_path):
    made = Tokenizer.load(folder / "tokenizer.json")
    options = {"data": folder / "a.txt", "seq_len": 16, "batch_size": 2, "save_every": 1,
               "backend": "torch", "output": tmp_path / "run"}  # fmt: skip
    hermes.train(LITTLE, tokenizer=made, max_steps=1, **options)
    hermes.train(LITTLE, max_steps=2, resume=True, **options)
    for step in (1, 2):
        held = open_checkpoint(tmp_path / f"run/step-0000000{step}").companions
        assert held.tokenizer_manifest == made.manifest
    hermes.finetune(tmp_path / "run", folder / "a.txt", output=tmp_path / "ft", max_steps=1,
                    seq_len=16, batch_size=2, backend="torch")  # fmt: skip
    held = open_checkpoint(tmp_path / "ft/step-00000001").companions
    assert held.tokenizer_manifest == made.manifest
    hermes.prepare(folder / "a.txt", made, output=tmp_path / "tokens")
    assert Tokenizer.load(tmp_path / "tokens").manifest == made.manifest


def test_what_does_not_fit_is_named(folder, tmp_path):
    made = Tokenizer.load(folder / "tokenizer.json")
    files = [folder / "a.txt", folder / "b.jsonl"]
    assert training().find_misfit(made, files) == ""
    moved = tmp_path / "moved.txt"
    moved.write_bytes(files[0].read_bytes())
    assert training().find_misfit(made, [moved, files[1]]) == ""
    assert training(preset="gpt-2").find_misfit(made, files) == (
        "was trained with preset 'llama-bpe', and not 'gpt-2'"
    )
    lines = TokenizerTraining(TextFormat(documents="lines"), Settings(vocab_size=280))
    assert lines.find_misfit(made, files) == ("was trained with documents 'file', and not 'lines'")
    assert training().find_misfit(made, files[::-1]) == (
        f"was trained on other text than that of {files[1]}"
    )
    assert training().find_misfit(made, files[:1]) == "was trained on 2 files, and not on 1"
    moved.write_text(TEXT + "!")
    assert training().find_misfit(made, [moved, files[1]]) == (
        f"was trained on other text than that of {moved}"
    )
    bare = Tokenizer.from_json(made.to_json())
    assert training().find_misfit(bare, files).startswith("has no manifest beside it")


@pytest.mark.parametrize(
    "settings", [{"preset": "gpt-2"}, {"preset": "qwen2", "normalize_nfc": True}]
)
def test_split_files_give_the_same_tokenizer_back(tmp_path, settings):
    made = train_tokenizer([TEXT], vocab_size=300, **settings)
    save_split(made, tmp_path / "split")
    names = (tmp_path / "split/special_tokens.txt").read_text().splitlines()
    assert names == ["<|bos|>", "<|eos|>", "<|pad|>", "<|im_start|>", "<|im_end|>"]
    roles = json.loads((tmp_path / "split/special_tokens_map.json").read_text())
    assert roles == {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>"}
    again = Tokenizer.load(tmp_path / "split")
    assert (again.fingerprint, again.roles) == (made.fingerprint, made.roles)
    # With the lines alone, as other programs write them, the usual names are found.
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if name != "tokenizer_config.json" or settings["preset"] == "gpt-2":
            (tmp_path / "split" / name).unlink()
    again = Tokenizer.load(tmp_path / "split/merges.txt")
    assert again.special_ids == made.special_ids
    assert (again.eos_id, again.encode("the <|eos|>")) == (made.eos_id, made.encode("the <|eos|>"))


def test_special_tokens_that_the_vocabulary_lacks_get_the_next_ids(tmp_path):
    made = train_tokenizer([TEXT], vocab_size=300, preset="gpt-2", special_tokens=())
    save_split(made, tmp_path)
    (tmp_path / "special_tokens.txt").write_text("<|end|>\n\n<|eos|>\r\n")
    again = Tokenizer.load(tmp_path)
    assert again.vocab_size == made.vocab_size + 2
    assert again.find_special_id("<|end|>") == made.vocab_size
    assert again.eos_id == made.vocab_size + 1


@pytest.mark.parametrize("settings", [{}, {"preset": "gpt-2", "fold_ascii": True}])
def test_what_split_files_cannot_say_is_refused(tmp_path, settings):
    made = train_tokenizer([TEXT], vocab_size=300, **settings)
    with pytest.raises(DataError, match="cannot say how this tokenizer splits or normalizes"):
        save_split(made, tmp_path)
    assert list(tmp_path.iterdir()) == []
