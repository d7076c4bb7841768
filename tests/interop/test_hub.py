"""Models to the Hub and from it, against a stand-in on the loopback: whole, or a line says why."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from hermes.checkpoint import open_checkpoint
from hermes.errors import CheckpointError, HermesError, StorageError
from hermes.interop.hub import HubName, fetch, parse_hub_name
from hermes.interop.hub_client import require_hub
from hermes.interop.open_model import open_model
from hermes.interop.publish import publish, require_writable
from hermes.training.events import Saved
from hermes_cli.main import run
from hermes_cli.training.hub_upload import EverySave
from tests.finetuning.support import TEXT, small_checkpoint, small_tokenizer
from tests.interop.hub_server import TOKEN, Repo, serving

pytest.importorskip("huggingface_hub", reason="pip install 'hermes-llm[hub]'")

NAME = HubName("me/small")


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(require_hub().constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between its attempts
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving() as server:
        yield server


@pytest.fixture
def files(tmp_path):
    """A checkpoint's files, and what a repository has besides."""
    folder = small_checkpoint(tmp_path / "base")
    held = {path.name: path.read_bytes() for path in folder.iterdir()}
    return held | {"README.md": b"words", ".gitattributes": b"*.safetensors lfs"}


def fetched(hub, tmp_path, name=NAME):
    return fetch(name, endpoint=hub.url, cache=tmp_path / "cache")


def foreign(files):
    """The same as a folder of Hugging Face's: without what hermes alone writes."""
    own = ("manifest.json", "model.mal", "progress.json", "optimizer.safetensors")
    return {name: data for name, data in files.items() if name not in own}


def test_a_checkpoint_is_fetched_whole_and_once(hub, files, tmp_path):
    hub.repos["me/small"] = Repo([files])
    found = fetched(hub, tmp_path)
    assert sorted(path.name for path in found.folder.iterdir()) == sorted(
        files.keys() - {"README.md", ".gitattributes"}
    )
    assert open_checkpoint(found.folder).resumable
    assert (found.folder.name, found.notes) == (hub.repos["me/small"].sha(), ())
    asked = len(hub.asked)
    assert fetched(hub, tmp_path) == found
    assert hub.asked[asked:] == ["GET /api/models/me/small/revision/main"]
    assert fetched(hub, tmp_path, HubName("me/small", found.commit)).folder == found.folder
    assert len(hub.asked) == asked + 1  # a commit never changes


def test_of_a_foreign_repository_only_what_hermes_reads_is_fetched(hub, files, tmp_path):
    held = foreign(files) | {"pytorch_model.bin": b"x" * 999, "onnx/model.safetensors": b"x"}
    hub.repos["me/small"] = Repo([held])
    found = fetched(hub, tmp_path)
    names = {path.name for path in found.folder.iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors",
                     "tokenizer.json", "tokenizer_config.json"}  # fmt: skip
    assert open_model(found.folder).spec.num_layers == 2


def test_shards_are_fetched_as_the_index_names_them(hub, files, tmp_path):
    index = {"metadata": {}, "weight_map": {"a": "part-1.safetensors", "b": "../b.safetensors"}}
    held = foreign(files) | {"model.safetensors.index.json": json.dumps(index).encode()}
    held["part-1.safetensors"] = held.pop("model.safetensors")
    hub.repos["me/small"] = Repo([held | {"consolidated.safetensors": b"x"}])
    names = {path.name for path in fetched(hub, tmp_path).folder.iterdir()}
    assert {name for name in names if ".safetensors" in name} == {
        "part-1.safetensors",
        "model.safetensors.index.json",
    }


def test_a_revision_is_a_commit_of_its_own(hub, files, tmp_path):
    hub.repos["me/small"] = Repo([foreign(files), foreign(files) | {"vocab.json": b"{}"}])
    old = hub.repos["me/small"].sha(0)
    assert fetched(hub, tmp_path, HubName("me/small", old)).commit == old
    assert fetched(hub, tmp_path).commit != old


def test_without_the_hub_a_whole_copy_is_taken_and_said(hub, files, tmp_path):
    hub.repos["me/small"] = Repo([files])
    found = fetched(hub, tmp_path)
    hub.down = 503
    again = fetched(hub, tmp_path)
    assert again.folder == found.folder
    assert again.notes == (
        f"hf://me/small: the Hub answered 503; using the copy of commit {found.commit[:12]}",
    )
    with pytest.raises(StorageError, match=r"^hf://me/other: the Hub answered 503$"):
        fetched(hub, tmp_path, HubName("me/other"))
    gone = "http://127.0.0.1:9"
    with pytest.raises(StorageError, match=r"^hf://me/other: the connection to the Hub failed"):
        fetch(HubName("me/other"), endpoint=gone, cache=tmp_path / "cache")
    assert fetch(NAME, endpoint=gone, cache=tmp_path / "cache").folder == found.folder


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer_config.json"])
@pytest.mark.parametrize("fault", ["cut", "altered"])
def test_a_half_download_is_never_a_model(hub, files, tmp_path, fault, file):
    hub.repos["me/small"] = Repo([foreign(files)])
    setattr(hub, fault, (file,))
    with pytest.raises((StorageError, CheckpointError)) as told:
        fetched(hub, tmp_path)
    assert (
        str(told.value)
        == {
            "cut": "hf://me/small: the connection to the Hub failed (RemoteProtocolError)",
            "altered": f"{file} of hf://me/small does not match the Hub's hash of it and was "
            "removed; try again to download it anew",
        }[fault]
    )
    hub.down = 503
    with pytest.raises(StorageError):  # what has arrived is no copy
        fetched(hub, tmp_path)
    hub.down = None
    setattr(hub, fault, ())
    found = fetched(hub, tmp_path)
    assert (found.folder / file).read_bytes() == files[file]


def test_a_torn_repository_is_refused(hub, files, tmp_path):
    del files["tokenizer.json"]
    hub.repos["me/small"] = Repo([files])
    missing = r"^hf://me/small is incomplete: tokenizer.json is missing"
    with pytest.raises(CheckpointError, match=missing):
        fetched(hub, tmp_path)
    hub.repos["me/small"] = Repo([{"README.md": b"words"}])
    with pytest.raises(CheckpointError, match=r"no model hermes reads: it has no config\.json"):
        fetched(hub, tmp_path)


MAY = "give a token that may, in HF_TOKEN or by 'hf auth login'"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("me/none", f"hf://me/none: no such model, or a private one; check the name, or {MAY}"),
        (
            "me/private",
            f"hf://me/private: no such model, or a private one; check the name, or {MAY}",
        ),
        ("me/gated", f"hf://me/gated is gated; ask for access to hf://me/gated, and {MAY}"),
        ("me/small@v9", "hf://me/small@v9: hf://me/small has no such revision"),
    ],
)
def test_what_the_hub_refuses_is_one_line(hub, files, tmp_path, monkeypatch, name, sentence):
    monkeypatch.setenv("HF_TOKEN", "hf_anotherSecretThatMayNothing")
    hub.repos["me/small"] = Repo([files])
    hub.repos["me/private"] = Repo([files], private=True)
    hub.repos["me/gated"] = Repo([files], gated=True)
    with pytest.raises(HermesError) as told:
        fetched(hub, tmp_path, parse_hub_name(f"hf://{name}"))
    assert str(told.value) == sentence
    assert told.value.__cause__ is None
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetched(hub, tmp_path, HubName("me/private")).commit


@pytest.mark.parametrize(
    "name", ["hf://", "hf://bad", "hf://a/b/c", "hf://me/../x", "hf://me/small@", "hf:/ "]
)
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(HermesError, match="is named hf://OWNER/REPO"):
        parse_hub_name(name)


def test_what_is_named_wrongly_is_told_before_any_network(monkeypatch, capfd):
    monkeypatch.setattr("hermes.interop.hub.require_hub", lambda: pytest.fail("asked the Hub"))
    named = "a model on the Hub is named hf://OWNER/REPO or hf://OWNER/REPO@REVISION"
    for command in (
        ["generate", "--prompt", "a", "--checkpoint"],
        ["checkpoint", "show"],
        ["checkpoint", "verify"],
        ["checkpoint", "list"],
        ["info", "--model"],
    ):
        assert run([*command, "hf://bad"]) == 1
        assert capfd.readouterr().err == f"Error: hf://bad: {named}\n"


def test_places_on_this_machine_are_no_names():
    assert parse_hub_name("run/step-00000001") is None
    assert parse_hub_name("hf/small") is None
    assert (
        parse_hub_name("hf:/me/small@v1")
        == parse_hub_name("hf://me/small@v1")
        == HubName("me/small", "v1")
    )


def test_a_model_is_pushed_in_one_commit_and_comes_back_equal(hub, tmp_path):
    checkpoint = small_checkpoint(tmp_path / "base")
    done = publish(checkpoint, "me/new", endpoint=hub.url)
    repo = hub.repos["me/new"]
    assert (len(repo.commits), repo.private, done.page) == (2, True, f"{hub.url}/me/new")
    assert "optimizer.safetensors" not in repo.commits[-1]
    back = fetched(hub, tmp_path, HubName("me/new"))
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
    assert fetched(hub, tmp_path, HubName("me/new")).commit == done.commit


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


def test_without_the_library_one_line_says_what_to_install(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert run(["generate", "--checkpoint", "hf://me/small", "--prompt", "a"]) == 1
    said = capfd.readouterr().err
    assert said.startswith("Error: models on the Hub need huggingface_hub, which is not installed")
    assert said.endswith("pip install 'hermes-llm[hub]'\n")
    assert said.count("\n") == 1


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
    with EverySave("me/m") as saves:
        for number, folder in enumerate(folders, 1):
            folder.mkdir()
            (folder / "a").write_text(folder.name)
            saves.see(Saved(number, folder))
            shutil.rmtree(folder)  # as retention does
    assert seen == [(folder.name, folder.name, "me/m", "numpy") for folder in folders]
    assert saves.pushed == {folders[0], folders[2]}
    assert list(tmp_path.iterdir()) == []
    warning = "Warning: step-2 is not pushed: push to me/m: the Hub is out of reach"
    assert capfd.readouterr().err.splitlines() == [
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
        timeout=300,
    )
    codes = [line for line in done.stdout.splitlines() if line.startswith("= ") and line[2:]]
    assert [line for line in codes if line != "= 0"] == ["= 1"], done.stdout + done.stderr
    assert "progress   none: no run can go on from it" in done.stdout
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
