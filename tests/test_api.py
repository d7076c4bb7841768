"""What `import hermes` offers, beyond the README's example, which has a test of its own."""

import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

import hermes
from hermes.errors import CheckpointError, HermesError, MissingBackend, OutOfMemory

TEXT = "the cat sat on a mat and then it ran off to see what else there was " * 40
LITTLE = """model little { max_seq_len: 32 hidden_size: 16 num_layers: 3
  block: { attention: { num_heads: 2 } ffn: { hidden_dim: 24 } } }"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run of five updates, and what it was made with."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "book.txt").write_text(TEXT, encoding="utf-8")
    tokenizer = hermes.train_tokenizer(folder / "book.txt", vocab_size=280)
    result = hermes.train(
        LITTLE,
        [folder / "book.txt"],
        tokenizer=tokenizer,
        output=folder / "run",
        max_steps=5,
        seq_len=16,
        batch_size=4,
        val_fraction=0.1,
    )
    return folder, tokenizer, result


def test_plot_draws_one_run_and_several(trained, tmp_path):
    pytest.importorskip("matplotlib")
    run = trained[0] / "run"
    assert hermes.plot(run) == run / "plots" / "loss.png"
    assert (run / "plots" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert hermes.plot([run, run], png=tmp_path / "two.svg") == tmp_path / "two.svg"
    assert "<svg" in (tmp_path / "two.svg").read_text(encoding="utf-8")
    with pytest.raises(HermesError, match="metrics"):
        hermes.plot(tmp_path)


def test_importing_hermes_imports_nothing_else():
    code = (
        "import sys, hermes\nassert 'hermes.spec' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'hermes' has no attribute 'trian'"):
        _ = hermes.trian


def test_what_came_of_training_is_told(trained):
    folder, _, result = trained
    assert result.output == folder / "run"
    assert result.checkpoint == folder / "run/step-00000005"
    assert (result.steps, result.finished) == (5, True)
    assert 0 < result.loss < 6
    assert 0 < result.val_loss < 6
    assert 0 < result.val_bits_per_byte < 8


def test_the_loss_of_a_run_is_that_of_evaluating_its_checkpoint(trained):
    from hermes.data import TextDataset, read_documents, tokenize
    from hermes.evaluation.perplexity import evaluate_perplexity

    folder, tokenizer, result = trained
    model = hermes.load(folder / "run")
    with tokenize(read_documents(folder / "book.txt"), tokenizer) as stream:
        data = TextDataset(stream, seq_len=16, vocab_size=280, val_fraction=0.1)
        found = evaluate_perplexity(model.backend_model, data.iterate_validation(3), 1)
    assert found.loss == pytest.approx(result.val_loss, rel=1e-6)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_logits_are_float32_of_rows_by_places_by_tokens(trained, backend):
    model = hermes.load(trained[0] / "run", backend)
    logits = model.logits([[1, 2, 3], [4, 5, 6]])
    assert logits.shape == (2, 3, 280)
    assert logits.dtype == np.float32
    exact = hermes.load(trained[0] / "run", "numpy", precision="float64").logits(
        np.array([[1, 2, 3], [4, 5, 6]])
    )
    np.testing.assert_allclose(logits, exact, atol=3e-6 * np.abs(exact).max())


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([1, 2, 3], r"tokens must be integers \(B, T\), got int64 \(3,\)"),
        ([[1.5]], r"tokens must be integers \(B, T\), got float64 \(1, 1\)"),
        ([[1], [2, 3]], r"tokens must be rows of equal length, \(B, T\)"),
        ([[280]], "token id 280 is outside the vocabulary of 280"),
        ([[0] * 33], r"a sequence of 33 tokens is longer than .*max_seq_len 32"),
    ],
)
def test_tokens_that_are_none_are_refused(trained, tokens, message):
    with pytest.raises(HermesError, match=message):
        hermes.load(trained[0] / "run").logits(tokens)


def test_the_text_depends_on_the_seed_and_the_settings(trained):
    model = hermes.load(trained[0] / "run")
    one = model.generate("the", max_tokens=12, seed=1)
    assert one == model.generate("the", max_tokens=12, seed=1)
    assert one != model.generate("the", max_tokens=12, seed=2)
    greedy = {model.generate("the", max_tokens=12, temperature=0, seed=s) for s in (1, 2)}
    assert len(greedy) == 1


def test_a_checkpoint_without_a_tokenizer_loads_and_only_text_is_refused(trained, tmp_path):
    folder = trained[0] / "run/step-00000005"
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes((folder / "model.safetensors").read_bytes())
    model = hermes.load(weights, config=folder / "model.mal")
    assert model.logits([[1, 2]]).shape == (1, 2, 280)
    with pytest.raises(CheckpointError, match=r"has no tokenizer.json beside it"):
        model.generate("the")
    assert hermes.load(weights, config=folder / "model.mal", tokenizer=trained[1]).generate("the")


def test_a_text_stops_at_the_end_of_text(trained):
    """A head that always says end-of-text: the completion is empty."""
    model = hermes.load(trained[0] / "run")

    class Ended:
        spec = model.spec

        def decoder(self, batch_size, capacity):
            return self

        def advance(self, tokens):
            logits = np.zeros((1, 280), np.float32)
            logits[0, model.tokenizer.eos_id] = 99
            return logits

    ended = hermes.Model(Ended(), lambda: model.tokenizer)
    assert ended.generate("the") == ""


def test_texts_of_a_model_that_expects_it_begin_with_bos(trained):
    tokenizer = trained[1]
    model = hermes.load(trained[0] / "run")
    assert model.encode("the") == tokenizer.encode("the")
    begun = hermes.load(trained[0] / "run", bos=True)
    assert begun.encode("the") == [tokenizer.bos_id, *tokenizer.encode("the")]
    assert begun.encode("") == [tokenizer.bos_id]


def test_frozen_layers_keep_their_weights_and_the_others_do_not(trained, tmp_path):
    """layers.1 is not layers.10, and what is frozen is frozen to the bit."""
    from hermes.checkpoint import open_checkpoint
    from hermes.numerics.params import init_weights

    folder, tokenizer, _ = trained
    wide = LITTLE.replace("num_layers: 3", "num_layers: 11")
    hermes.train(
        wide, folder / "book.txt", tokenizer=tokenizer, output=tmp_path / "run",
        max_steps=2, seq_len=16, batch_size=4, freeze_layers=2,
    )  # fmt: skip
    checkpoint = open_checkpoint(tmp_path / "run/step-00000002")
    before = init_weights(checkpoint.spec, 0)
    for name, array in checkpoint.params.items():
        same = np.array_equal(array, before[name])
        frozen = name.startswith(("model.embed", "model.layers.0.", "model.layers.1."))
        assert same == frozen, name


def test_a_backend_is_had_by_name():
    assert hermes.backend("torch").name == "torch"
    assert hermes.backend().name in ("torch", "mlx")
    for name, hint in {
        "jax": "; known are mlx, numpy, torch",
        "pytorch": "; did you mean 'torch'?",
        "MLX": "; did you mean 'mlx'?",
        "cuda:0": ", but a device: give it as --device; known are mlx, numpy, torch",
    }.items():
        with pytest.raises(MissingBackend) as refused:
            hermes.backend(name)
        assert str(refused.value) == f"backend {name!r} is unknown{hint}"


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ImportError("libtorch.so: failed to map segment from shared object"), OutOfMemory, 71),
        (MemoryError(), OutOfMemory, 71),
        (ImportError("can't start new thread"), MissingBackend, 1),
        (ImportError("no module named x"), MissingBackend, 1),
    ],
)
def test_a_backend_that_memory_is_too_small_for_is_not_missing(monkeypatch, error, kind, code):
    from hermes import interface

    class Point:
        name = "torch"

        def load(self):
            raise error

    monkeypatch.setattr(interface, "entry_points", lambda group: [Point()])
    with pytest.raises(kind, match=r"^backend 'torch' (cannot be loaded|is not installed)") as told:
        hermes.backend("torch")
    assert told.value.exit_code == code


def test_auto_is_mlx_on_apple_silicon_and_torch_elsewhere(monkeypatch):
    from hermes import interface

    monkeypatch.setattr(interface.sys, "platform", "darwin")
    monkeypatch.setattr(interface.platform, "machine", lambda: "arm64")
    assert interface.detect_default_backend() == "mlx"
    monkeypatch.setattr(interface.platform, "machine", lambda: "x86_64")
    assert interface.detect_default_backend() == "torch"
    monkeypatch.setattr(interface, "find_spec", lambda name: None if name == "torch" else name)
    assert interface.detect_default_backend() == "mlx"
    monkeypatch.setattr(interface, "find_spec", lambda name: None)
    with pytest.raises(MissingBackend) as error:
        hermes.backend()
    assert str(error.value) == (
        "no backend is installed; pip install 'hermes-llm[torch]' or 'hermes-llm[mlx]'"
    )


@pytest.mark.parametrize(
    ("tokens", "special", "rows", "found"),
    [(300, (), 300, ""), (301, (), 300, "refused"), (301, (300,), 300, ""),
     (302, (301,), 300, "refused"), (280, (), 300, "warned"), (50257, (), 50304, ""),
     (50295, (), 51200, ""), (1000, (), 1024, ""), (100015, (), 102400, "warned")],
)  # fmt: skip
def test_rows_without_a_token_are_said_and_tokens_without_a_row_refused(
    tokens, special, rows, found
):
    tokenizer = SimpleNamespace(
        vocab_size=tokens, special_ids=frozenset(special), roles=SimpleNamespace(notes=())
    )
    built = SimpleNamespace(spec=SimpleNamespace(vocab_size=rows))
    model = hermes.Model(built, lambda: tokenizer)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if found == "refused":
            with pytest.raises(CheckpointError, match="use the tokenizer that the model was"):
                model.tokenizer  # noqa: B018
        else:
            assert model.tokenizer is tokenizer
    more = f"rows for {rows - tokens:,} more tokens than the tokenizer's {tokens:,}"
    own = [one for one in said if one.category is UserWarning]  # not what is collected meanwhile
    assert [more in str(one.message) for one in own] == [True] * (found == "warned")


@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_in_a_short_type_load_and_are_tuned_on_each_backend(
    trained, tmp_path, backend, dtype
):
    from hermes.interop.convert import convert
    from hermes_cli.main import run

    folder, _, result = trained
    short = tmp_path / "short"
    convert(result.checkpoint, short, to="hermes", dtype=dtype)
    model = hermes.load(short, backend=backend)
    oracle = hermes.load(short, backend="numpy", precision="float64")
    tokens = [model.tokenizer.encode("the cat sat")]
    np.testing.assert_allclose(model.logits(tokens), oracle.logits(tokens), atol=1e-5)
    assert run(["finetune", "--checkpoint", str(short), "--data", str(folder / "book.txt"),
                "--output", str(tmp_path / "run"), "--max-steps", "1", "--batch-size", "2",
                "--seq-len", "16", "--backend", backend]) == 0  # fmt: skip


def test_files_that_contradict_each_other_about_bos_are_named_once(trained, tmp_path):
    """By the file that counts; a choice leaves nothing to name."""
    import shutil

    folder = shutil.copytree(next((trained[0] / "run").glob("step-*")), tmp_path / "model")
    (folder / "manifest.json").unlink()
    begun = hermes.load(folder).tokenizer.replace_roles(bos=True)
    begun.save(folder / "tokenizer.json")
    with pytest.warns(UserWarning, match=r"^tokenizer_config.json says add_bos_token false, ") as w:
        assert hermes.load(folder).encode("the") == begun.encode("the")
    assert len([one for one in w if one.category is UserWarning]) == 1
    assert hermes.load(folder, bos=True).encode("the") == [begun.bos_id, *begun.encode("the")]
