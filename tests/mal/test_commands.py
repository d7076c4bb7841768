"""`hermes info` and `hermes mal`, as they are called."""

import json
import os
import stat

import pytest

import hermes
from hermes import mal
from hermes.errors import CheckpointError
from hermes_cli.main import run
from tests.finetuning.support import small_checkpoint

SMALL = "model small { hidden_size: 64  block { attention { num_heads: 4 } } }\n"
CANONICAL = "model small {\n  hidden_size: 64\n  block { attention { num_heads: 4 } }\n}\n"
BAD = "model small {\n  hiden_size: 64\n}\n"


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Write files of MAL in the folder where commands run."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="my.mal"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return write


def test_info_prints_shape_and_costs(capsys):
    assert run(["info", "--model", "gpt2-small"]) == 0
    out = capsys.readouterr().out
    for text in ("gpt2-small: GPT-2 Small", "124,439,808", "798 MFLOP", "73,728 B", "1.99 GB"):
        assert text in out
    assert max(map(len, out.splitlines())) <= 100


def test_info_as_json_has_the_names_that_others_script_against(capsys):
    assert run(["info", "--model", "mistral-7b", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["name"] == "mistral-7b"
    assert facts["parameters"] == sum(facts["parameters_by_part"].values()) == 7_241_732_096
    assert set(facts["flops_per_token"]) == {"training", "decoding"}
    assert facts["kv_bytes_per_token"] == {"float32": 262_144, "bfloat16": 131_072}
    assert set(facts["memory"]) == {"float32", "bfloat16"}
    assert facts["layers"][0]["attention.window_size"] == "4096"
    assert mal.loads(facts["mal"]) == mal.load("mistral-7b")


def test_info_names_each_reader_as_convert_does(capsys):
    assert run(["info", "--model", "mistral-7b"]) == 0
    assert capsys.readouterr().out.splitlines()[-5:] == [
        "readers",
        "  transformers 4.57  exact",
        "  transformers 5     exact",
        "  mlx-lm             inexact because it ignores the window of 4096",
        "  hermes             exact",
    ]
    assert run(["info", "--model", "mistral-7b", "--json"]) == 0
    readers = json.loads(capsys.readouterr().out)["readers"]
    assert readers["mlx-lm"] == "inexact because it ignores the window of 4096"
    assert readers["hermes"] == "exact"


def test_info_of_a_checkpoint_says_how_far_it_is(tmp_path, capsys):
    folder = tmp_path / "step-00000007"
    folder.mkdir()
    (folder / "model.mal").write_text(SMALL)
    progress = {"run": "r", "step": 7, "tokens": 1234, "recipe": {}, "metrics": {"loss": 2.5}}
    progress |= {"backend": "torch", "device": "cpu"}
    (folder / "progress.json").write_text(json.dumps(progress))
    for path in (folder, tmp_path):  # the checkpoint, and the run whose newest it is
        assert run(["info", "--model", str(path)]) == 0
        out = capsys.readouterr().out
        assert "small" in out
        assert "tokens      1,234" in out
        assert "loss 2.5" in out
    assert run(["info", "--model", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["progress"]["step"] == 7


def test_info_of_a_hugging_face_folder_reads_its_config(tmp_path, capsys):
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 100}
    config |= {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6}
    config |= {"max_position_embeddings": 64, "hidden_act": "silu", "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for path in (tmp_path, tmp_path / "config.json"):
        assert run(["info", "--model", str(path), "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["parameters"] == 100 * 16 + 3 * (16 * 48 + 3 * 24 * 16 + 2 * 16) + 16
        own = facts["readers"].pop("hermes")
        assert own == ("weights exact; text: no tokenizer" if path.is_dir() else "exact")
        assert set(facts["readers"].values()) == {"exact"}


def test_info_says_that_a_tokenizer_has_tokens_without_rows(tmp_path, capsys):
    """The verdict is that of `generate`, which refuses such a folder."""
    start = small_checkpoint(tmp_path / "model")
    config = json.loads((start / "config.json").read_text())
    tokenizer = json.loads((start / "tokenizer.json").read_text())
    rows = config["vocab_size"]
    count = len(tokenizer["model"]["vocab"])
    tokenizer["model"]["vocab"] |= {f"x{k}": k for k in range(count, rows + 1)}
    (start / "tokenizer.json").write_text(json.dumps(tokenizer))
    (start / "manifest.json").unlink()  # a folder as other tools leave it
    (start / "model.mal").unlink()
    assert run(["info", str(start), "--json"]) == 0
    own = json.loads(capsys.readouterr().out)["readers"]["hermes"]
    reason = (
        f"the tokenizer has {rows + 1} tokens and the model {rows}; use the tokenizer that the "
        "model was trained with"
    )
    assert own == f"weights exact; text: {reason}"
    with pytest.raises(CheckpointError, match=reason):
        hermes.load(start, backend="torch").generate("a", max_tokens=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "--model", "lama-7b"], "there is no model or file 'lama-7b'; did you mean"),
        (["info", "--model", "my.mal"], "my.mal:2:3: unknown key 'hiden_size' in model; did you"),
        (["mal", "show", "none.mal"], "there is no file 'none.mal'"),
        (["mal", "diff", "nano", "my.mal"], "my.mal:2:3: unknown key"),
        (["mal", "format", "my.mal"], "my.mal:2:3: unknown key"),
    ],
)
def test_a_mistake_is_one_error_and_exit_code_1(arguments, message, file, capsys):
    file(BAD)
    assert run(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"Error: {message}")
    assert captured.out == ""


def test_check_says_ok_of_each_model_and_goes_on_after_an_error(file, capsys):
    two = SMALL + SMALL.replace("model small", "model other")
    file(two, "two.mal")
    file(BAD, "bad.mal")
    assert run(["mal", "check", "nano", "bad.mal", "two.mal"]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "ok  nano.mal  4,194,624 parameters",
        "ok  two.mal:small  4,884,032 parameters",
        "ok  two.mal:other  4,884,032 parameters",
    ]
    assert captured.err == (
        "Error: bad.mal:1:7: model small needs block or pattern\nmodel small {\n      ^\n"
        "Error: bad.mal:2:3: unknown key 'hiden_size' in model; did you mean 'hidden_size'?\n"
        "  hiden_size: 64\n  ^\n"
    )
    assert run(["mal", "check", "two.mal"]) == 0


MISTAKEN = """attention a { num_heads: x, n_head: 4 }
ffn f { hidden_dim: 3.5 }
block b { attention: a, ffn: g }
model m { vocab_size: 100, block: b, nope: 3, num_layers: 2 }
model n { pattern: [b, c, b], num_layers: no }
modle o { }
"""


def test_check_reports_every_mistake_of_a_file_in_its_order(file, capsys):
    """Each once, however many parts name a part with mistakes, and none that follows from them."""
    file(MISTAKEN, "bad.mal")
    assert run(["mal", "check", "bad.mal"]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
    assert [line.removeprefix("Error: bad.mal:").split(";")[0] for line in errors] == [
        "1:26: num_heads takes an integer, got 'x'",
        "1:29: unknown key 'n_head' in attention",
        "2:21: hidden_dim takes an integer, got 3.5",
        "3:30: ffn 'g' is not defined",
        "4:38: unknown key 'nope' in model",
        "5:24: block 'c' is not defined",
        "5:43: num_layers takes an integer, got 'no'",
        "6:1: unknown kind 'modle'",
    ]


def test_format_prints_canonical_text_and_warns_of_comments(file, capsys):
    file("# one\n" + SMALL + "# two")
    assert run(["mal", "format", "my.mal"]) == 0
    captured = capsys.readouterr()
    assert captured.out == CANONICAL
    assert captured.err == "Warning: my.mal: 2 comments are not kept\n"


def test_format_of_a_bundled_model_is_what_one_begins_with(capsys):
    """As in `hermes mal format nano > my.mal`: nobody misses its comments."""
    assert run(["mal", "format", "nano"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "model nano {" in captured.out


def test_format_writes_in_place_and_keeps_permissions_and_links(file, tmp_path, capsys):
    file(SMALL, "real.mal")
    os.chmod("real.mal", 0o640)
    os.symlink("real.mal", "link.mal")
    assert run(["mal", "format", "--write", "link.mal"]) == 0
    assert os.path.islink("link.mal")
    assert (tmp_path / "real.mal").read_text() == CANONICAL
    assert stat.S_IMODE(os.stat("real.mal").st_mode) == 0o640
    assert capsys.readouterr().out == ""
    assert sorted(os.listdir()) == ["link.mal", "real.mal"]


def test_format_drops_comments_only_when_told_to(file, tmp_path, capsys):
    file("# kept\n" + SMALL)
    assert run(["mal", "format", "--write", "my.mal"]) == 1
    assert (
        "my.mal has 1 comment, which would be lost; give --drop-comments" in capsys.readouterr().err
    )
    assert (tmp_path / "my.mal").read_text() == "# kept\n" + SMALL
    assert run(["mal", "format", "--write", "--drop-comments", "my.mal"]) == 0
    assert (tmp_path / "my.mal").read_text() == CANONICAL


def test_format_does_not_write_bundled_models(capsys):
    assert run(["mal", "format", "--write", "nano"]) == 1
    assert "nano is not a file that --write can change" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (CANONICAL, 0),
        ("# a comment\n\n" + CANONICAL.replace("64\n", "64  # wide\n\n"), 0),
        (SMALL, 1),
        (CANONICAL.replace("hidden_size", "d_model"), 1),
    ],
)
def test_format_check_passes_over_comments_and_blank_lines(text, code, file, tmp_path, capsys):
    file(text)
    assert run(["mal", "format", "--check", "my.mal"]) == code
    assert (tmp_path / "my.mal").read_text() == text
    assert ("my.mal is not in canonical form" in capsys.readouterr().err) == bool(code)


def test_show_resolves_every_key(capsys):
    assert run(["mal", "show", "llama-small"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["layers", "0-15"] in lines
    assert ["attention.head_dim", "64"] in lines
    assert ["ffn.activation", "silu"] in lines
    assert ["ffn.gate", "true"] in lines


def test_diff_prints_structure_costs_and_tensors(file, capsys):
    file(SMALL)
    file(SMALL.replace("num_heads: 4", "num_heads: 4  num_kv_heads: 2"), "gqa.mal")
    assert run(["mal", "diff", "my.mal", "gqa.mal"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["structure", "my.mal", "gqa.mal"] in lines
    assert ["attention.num_kv_heads", "4", "2"] in lines
    assert ["parameters", "4,884,032", "4,834,880", "x", "0.99"] in lines
    assert ["same", "name,", "other", "shape", "24", "49,152", "parameters"] in lines
    shapes = ["model.layers.[0-11].self_attn.k_proj.weight", "(64,", "64)", "->", "(32,", "64)"]
    assert shapes in lines


def test_diff_as_json_names_every_tensor(capsys):
    assert run(["mal", "diff", "nano", "tiny", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["a"]["name"], facts["b"]["name"], facts["same"]) == ("nano", "tiny", False)
    assert facts["a"]["parameters"] == 4_194_624
    change = {"where": "model", "key": "hidden_size", "a": "64", "b": "128"}
    assert change in facts["structure"]
    reshaped = {"name": "model.norm.weight", "a": [64], "b": [128]}
    assert reshaped in facts["tensors"]["reshaped"]
    assert "model.layers.3.mlp.up_proj.weight" in facts["tensors"]["only_b"]


def test_diff_of_two_spellings_says_they_are_one(file, capsys):
    file(SMALL.replace("num_heads: 4", "num_heads: 4  head_dim: 16  position_encoding: rope"))
    file(SMALL, "plain.mal")
    assert run(["mal", "diff", "my.mal", "plain.mal"]) == 0
    assert "my.mal and plain.mal are one architecture" in capsys.readouterr().out
