"""What begins and ends a text: the same in training, in its run's files, on resume and in use."""

import hashlib
import json
import re
from dataclasses import replace

import pytest

import hermes
from hermes.checkpoint.manifest import FileDigest, read_manifest
from hermes.data import read_documents, tokenize
from hermes.errors import HermesError
from hermes.tokenizer import Tokenizer
from tests.finetuning.support import small_checkpoint, small_spec
from tests.tokenizer.foreign import WORDS, make_kinds

QUICK = {"batch_size": 2, "seq_len": 16, "progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model with the tokenizer of Llama 2's kind, whose tokenizer.json begins a text with <s>."""
    tokenizer = Tokenizer.from_json(make_kinds()["llama 2"])
    assert tokenizer.adds_bos
    spec = small_spec(vocab_size=tokenizer.vocab_size)
    return small_checkpoint(tmp_path_factory.mktemp("base"), spec=spec, tokenizer=tokenizer)


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps({"text": WORDS[:n]}) + "\n" for n in (90, 200, 300)))
    return file


def tune(base, data, run, backend="torch", **options):
    return hermes.finetune(
        base, data, output=run, backend=backend, **{"max_steps": 2} | QUICK | options
    )


def read_run(run):
    import yaml

    return yaml.safe_load((run / "run.yaml").read_text())


def test_a_run_trains_on_texts_as_the_tokenizer_begins_them(base, data, tmp_path):
    run = tmp_path / "run"
    result = tune(base, data, run)
    settings = read_run(run)
    assert (settings["bos"], settings["eos"]) == (True, "</s>")
    tokenizer = Tokenizer.load(result.checkpoint)
    assert tokenizer.adds_bos
    with tokenize(read_documents([data]), tokenizer) as stream:
        progress = json.loads((result.checkpoint / "progress.json").read_text())
        assert progress["data"] == stream.fingerprint
        assert stream.tokens[0] == tokenizer.bos_id
    tune(None, data, run, "mlx", resume=True, max_steps=3)
    assert hermes.load(run, device="cpu").encode("words")[0] == tokenizer.bos_id


def test_without_bos_the_run_and_its_files_have_none(base, data, tmp_path):
    run = tmp_path / "run"
    result = tune(base, data, run, bos=False)
    assert read_run(run)["bos"] is False
    assert (
        json.loads((result.checkpoint / "tokenizer_config.json").read_text())["add_bos_token"]
        is False
    )
    assert json.loads((result.checkpoint / "tokenizer.json").read_text())["post_processor"] is None
    model = hermes.load(run, device="cpu")
    assert model.encode("words") == model.tokenizer.encode("words")
    assert hermes.load(run, device="cpu", bos=True).encode("words")[0] == model.tokenizer.bos_id
    tune(None, data, run, resume=True, max_steps=3)


def test_a_run_of_an_earlier_version_resumes_without_bos(base, data, tmp_path):
    """It put none, whatever its tokenizer.json says."""
    run = tmp_path / "run"
    result = tune(base, data, run, bos=False)
    text = (run / "run.yaml").read_text()
    (run / "run.yaml").write_text(re.sub(r"(?m)^(bos|eos):.*\n", "", text))
    replace_tokenizer(result.checkpoint, make_kinds()["llama 2"])
    assert Tokenizer.load(result.checkpoint / "tokenizer.json").roles.notes  # they contradict
    tune(None, data, run, resume=True, max_steps=3)
    assert read_run(run)["bos"] is False


def replace_tokenizer(checkpoint, tokenizer_json):
    """Put an earlier version's tokenizer.json into a checkpoint, with its hash."""
    held = tokenizer_json.encode()
    (checkpoint / "tokenizer.json").write_bytes(held)
    manifest = read_manifest(checkpoint)
    digest = FileDigest(len(held), hashlib.sha256(held).hexdigest())
    files = {**manifest.files, "tokenizer.json": digest}
    (checkpoint / "manifest.json").write_bytes(replace(manifest, files=files).render())


def test_a_chosen_end_of_text_ends_documents_and_stays(base, data, tmp_path):
    run = tmp_path / "run"
    result = tune(base, data, run, eos="<unk>")
    assert read_run(run)["eos"] == "<unk>"
    tokenizer = Tokenizer.load(result.checkpoint)
    assert tokenizer.get_name(tokenizer.eos_id) == "<unk>"
    with tokenize(read_documents([data]), tokenizer) as stream:
        progress = json.loads((result.checkpoint / "progress.json").read_text())
        assert progress["data"] == stream.fingerprint
    with pytest.raises(HermesError) as error:
        tune(None, data, run, resume=True, max_steps=3, eos="</s>")
    assert str(error.value) == (
        f"eos is '<unk>' in {run / 'run.yaml'} and '</s>' here; leave it out to resume the run, or "
        "choose another output for a new one"
    )
    tune(None, data, run, resume=True, max_steps=3)


def test_a_runs_tokenizer_json_alone_gives_another_run_its_ends_of_text(base, data, tmp_path):
    tune(base, data, tmp_path / "run", eos="<unk>", bos=False)
    file = tmp_path / "run" / "tokenizer.json"
    other = tmp_path / "other"
    spec = small_spec(vocab_size=Tokenizer.load(file).vocab_size)
    hermes.train(
        spec, data, tokenizer=file, output=other, backend="torch", **{"max_steps": 1} | QUICK
    )
    assert [read_run(other)[name] for name in ("eos", "bos")] == ["<unk>", False]


def test_a_new_model_has_them_too(data, tmp_path):
    tokenizer = hermes.train_tokenizer([data], vocab_size=300)
    run = tmp_path / "run"
    options = {"max_steps": 2, "backend": "torch", "eos": "<|im_end|>", "bos": True} | QUICK
    result = hermes.train(small_spec(), data, tokenizer=tokenizer, output=run, **options)
    own = Tokenizer.load(result.checkpoint)
    assert (own.get_name(own.eos_id), own.adds_bos) == ("<|im_end|>", True)
    with tokenize(read_documents([data]), own) as stream:
        assert stream.tokens[0] == own.bos_id
        assert stream.tokens[-1] == own.eos_id
    hermes.train(data=data, output=run, resume=True, **options | {"max_steps": 3})


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_continuation_joins_its_prompt(base, backend):
    """Its first word keeps its space, also while it is streamed."""
    model = hermes.load(base, backend, device="cpu")
    tokenizer = model.tokenizer
    for seed in range(8):
        prompt = "the quick"
        ids = list(model.tokens(prompt, max_tokens=6, seed=seed))
        shown = []
        made = model.complete(prompt, max_tokens=6, seed=seed, show=shown.append)
        assert prompt + made.text == tokenizer.decode(model.encode(prompt) + ids)
        assert "".join(shown) == made.text == model.generate(prompt, max_tokens=6, seed=seed)


def test_evaluation_begins_a_text_as_training_does(base, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(WORDS[:120])
    one, none = (
        hermes.evaluate(base, file, device="cpu", seq_len=64, bos=bos) for bos in (None, False)
    )
    assert one.tokens == none.tokens + 1  # the first token of the text is predicted, too
    nats = one.val_loss * one.tokens
    assert one.bits_per_byte * 120 == pytest.approx(nats / 0.6931471805599453, rel=1e-9)
