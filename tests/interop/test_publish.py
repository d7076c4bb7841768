"""Models to the Hub, against a server on the loopback: in one commit, or a line says why."""

import json
import os
import shutil
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from hermes.checkpoint import open_checkpoint
from hermes.errors import HermesError, StorageError
from hermes.interop.hub import HubName
from hermes.interop.hub_client import require_hub
from hermes.interop.publish import publish, require_writable
from hermes.training.events import Saved
from hermes.training.hub_upload import HubUploads, Push
from hermes_cli.main import run
from tests.finetuning.support import TEXT, small_checkpoint, small_tokenizer
from tests.interop.hub_server import MAY, TOKEN, Repo, fetch_to

pytest.importorskip("huggingface_hub", reason="pip install 'hermes-llm[hub]'")


def test_a_model_is_pushed_in_one_commit_and_comes_back_equal(hub, tmp_path):
    checkpoint = small_checkpoint(tmp_path / "base")
    done = publish(checkpoint, "me/new", endpoint=hub.url)
    repo = hub.repos["me/new"]
    assert (len(repo.commits), repo.private, done.page) == (2, True, f"{hub.url}/me/new")
    assert "optimizer.safetensors" not in repo.commits[-1]
    back = fetch_to(hub, tmp_path, HubName("me/new"))
    ours, theirs = open_checkpoint(checkpoint), open_checkpoint(back.folder)
    for name, tensor in ours.params.items():
        np.testing.assert_array_equal(theirs.params[name], tensor)
    assert theirs.tokenizer_json == ours.tokenizer_json


def test_the_card_says_what_it_is_and_how_to_load_it(hub, tmp_path):
    publish(small_checkpoint(tmp_path / "base"), "me/new", endpoint=hub.url, dtype="bfloat16")
    text = hub.repos["me/new"].commits[-1]["README.md"].decode()
    header, _, body = text.removeprefix("---\n").partition("---\n")
    assert "library_name: transformers" in header
    assert "# new" in body
    assert "bfloat16" in body
    assert 'hermes.load("hf://me/new")' in body
    assert 'AutoModelForCausalLM.from_pretrained("me/new")' in body
    assert "| transformers 5 | exact |" in body
    assert "model small {" in body


def test_a_push_replaces_the_model_before_it_and_leaves_the_rest(hub, tmp_path):
    shards = {"model-00001-of-00002.safetensors": b"x", "model.safetensors.index.json": b"{}"}
    old = shards | {"optimizer.safetensors": b"x", "README.md": b"my words", "notes/a.txt": b"x"}
    hub.repos["me/new"] = Repo([old])
    done = publish(small_checkpoint(tmp_path / "base"), "me/new", endpoint=hub.url)
    now = hub.repos["me/new"].commits[-1]
    assert now["README.md"] == b"my words"
    assert done.notes == ("README.md of me/new stays as it is",)
    assert {"model.safetensors", "notes/a.txt"} < now.keys()
    assert not now.keys() & (old.keys() - {"README.md", "notes/a.txt"})
    assert fetch_to(hub, tmp_path, HubName("me/new")).commit == done.commit


@pytest.mark.parametrize(
    ("token", "repo", "sentence"),
    [
        (TOKEN, "others/small", f"push to others/small: the Hub does not permit it; {MAY}"),
        ("hf_wrong", "me/small", f"push to me/small: the Hub does not permit it; {MAY}"),
        (TOKEN, "small", "'small' is not the name of a repository, OWNER/REPO"),
    ],
)
def test_a_push_that_is_not_permitted_is_refused_before(hub, monkeypatch, token, repo, sentence):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HermesError) as told:
        require_writable(repo, endpoint=hub.url)
    assert str(told.value) == sentence


def test_without_a_token_a_push_says_where_one_is_given(hub, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(require_hub().constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(HermesError, match="in HF_TOKEN or by 'hf auth login'"):
        require_writable("me/small", endpoint=hub.url)


@pytest.mark.parametrize(
    ("source", "options", "sentence"),
    [
        ("none", {}, "{}: no such file or folder"),
        ("empty", {}, "{} is an empty folder, and no model hermes reads"),
        ("base", {"dtype": "int3"}, "dtype is 'int3'; it must be one of "),
    ],
)
def test_a_model_is_looked_at_before_the_hub_is_asked(
    hub, monkeypatch, tmp_path, source, options, sentence
):
    """A token is not what is amiss where there is no model; and no empty repository is left."""
    small_checkpoint(tmp_path / "base")
    (tmp_path / "empty").mkdir()
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(require_hub().constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(HermesError) as told:
        publish(tmp_path / source, "me/new", endpoint=hub.url, **options)
    assert str(told.value).startswith(sentence.format(tmp_path / source))
    assert not hub.repos


def test_saves_are_pushed_in_order_one_at_a_time_and_a_failure_is_a_warning(
    tmp_path, monkeypatch, capfd
):
    now, seen = [], []

    def published(checkpoint, repo, *, backend):
        now.append(checkpoint)
        assert len(now) == 1
        threading.Event().wait(0.05)
        seen.append((checkpoint.name, (checkpoint / "a").read_text(), repo, backend))
        now.remove(checkpoint)
        if checkpoint.name == "step-2":
            raise StorageError("push to me/m: the Hub is out of reach")
        return SimpleNamespace(page="P", commit="c" * 40)

    monkeypatch.setattr("hermes.interop.publish.publish", published)
    folders = [tmp_path / f"step-{n}" for n in (1, 2, 3)]
    told = []
    with HubUploads(Push("me/m", every_save=True), told.append) as uploads:
        for number, folder in enumerate(folders, 1):
            folder.mkdir()
            (folder / "a").write_text(folder.name)
            uploads.push_saved(Saved(number, folder))
            shutil.rmtree(folder)  # as retention does
    assert seen == [(folder.name, folder.name, "me/m", "numpy") for folder in folders]
    assert uploads.pushed == {folders[0], folders[2]}
    assert list(tmp_path.iterdir()) == []
    warning = "Warning: step-2 is not pushed: push to me/m: the Hub is out of reach"
    assert told == [
        "pushed: step-1 to P, commit cccccccccccc",
        warning,
        "pushed: step-3 to P, commit cccccccccccc",
    ]


def test_pushing_every_save_needs_a_repository(capfd, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    asked = ["--data", str(tmp_path / "a.txt"), "--output", str(tmp_path / "run")]
    assert run(["train", *asked, "--push-every-save"]) == 1
    assert "--push-every-save needs --push-to-hub OWNER/REPO" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


SCRIPT = """
import json, sys
from hermes_cli.main import run
for arguments in json.loads(sys.argv[1]):
    print("$", " ".join(arguments), flush=True)
    print("=", run(arguments), flush=True)

"""


def test_commands_push_and_read_and_no_token_is_ever_written(hub, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT * 30)
    small_tokenizer().save(tmp_path / "tokenizer.json")
    (tmp_path / "m.mal").write_text(
        "model m { vocab_size: 300 max_seq_len: 32 hidden_size: 16 num_layers: 1\n"
        "  block: { attention: { num_heads: 2 } ffn: { hidden_dim: 24 } } }"
    )
    few = ["--seq-len", "16", "--batch-size", "2", "--max-steps", "2", "--backend", "torch"]
    train = ["train", "--data", "text.txt", "--tokenizer", "tokenizer.json", "--model", "m.mal"]
    commands = [
        [*train, *few, "--save-every", "1", "--keep-last", "1", "--output", "run",
         "--push-to-hub", "me/m", "--push-every-save"],
        ["generate", "--checkpoint", "hf://me/m", "--prompt", "the", "--max-tokens", "3"],
        ["finetune", "--checkpoint", "hf://me/m", "--data", "text.txt", *few, "--output", "two"],
        ["convert", "hf://me/m", "three", "--to", "hf"],
        ["checkpoint", "show", "hf://me/m"],
        ["checkpoint", "verify", "hf://me/m"],
        ["info", "--model", "hf://me/m"],
        [*train, *few, "--output", "four", "--push-to-hub", "others/m"],
        [*train, *few, "--output", "run", "--resume", "--push-to-hub", "me/again"],
        ["train", "--data", "text.txt", "--tokenizer", "hf://me/m", "--model", "m.mal", *few,
         "--output", "five"],
    ]  # fmt: skip
    home = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)],
        cwd=tmp_path,
        env=os.environ | home | {"HF_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=900,
    )
    codes = [line for line in done.stdout.splitlines() if line.startswith("= ") and line[2:]]
    assert [line for line in codes if line != "= 0"] == ["= 1"], done.stdout + done.stderr
    assert "progress   none: training cannot be resumed from it" in done.stdout
    assert f"/hermes/{hub.repos['me/m'].sha()}: whole, " in done.stdout
    assert "\nreaders\n" in done.stdout
    assert not (tmp_path / "four").exists()
    assert f"pushed: {hub.url}/me/again, commit " in done.stderr
    pushed = [line.split()[1] for line in done.stderr.splitlines() if "/me/m, commit" in line]
    assert pushed == ["step-00000001", "step-00000002"]
    assert len(hub.repos["me/m"].commits) == 3  # the first is empty
    assert not list((tmp_path / "run").glob(".tmp-*"))
    commit = hub.repos["me/m"].sha()
    assert f'checkpoint: "hf://me/m@{commit}"' in (tmp_path / "two" / "run.yaml").read_text()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    assert TOKEN not in done.stdout + done.stderr
    assert not any("push_to" in p.read_text() for p in tmp_path.glob("*/run.yaml"))
