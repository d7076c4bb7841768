"""Models from the Hub, against a server on the loopback: whole, or a line says why."""

import json
import logging
import sys

import pytest

from hermes.checkpoint import open_checkpoint
from hermes.errors import CheckpointError, HermesError, StorageError
from hermes.interop import hub_client
from hermes.interop.hub import HubName, fetch, parse_hub_name
from hermes.interop.open_model import open_model
from hermes_cli.main import run
from tests.finetuning.support import small_checkpoint
from tests.interop.hub_server import MAY, NAME, TOKEN, Repo, fetch_to

pytest.importorskip("huggingface_hub", reason="pip install 'hermes-llm[hub]'")


@pytest.fixture
def files(tmp_path):
    """A checkpoint's files, and what a repository has besides."""
    folder = small_checkpoint(tmp_path / "base")
    held = {path.name: path.read_bytes() for path in folder.iterdir()}
    return held | {"README.md": b"words", ".gitattributes": b"*.safetensors lfs"}


def foreign(files):
    """The same as a folder of Hugging Face's: without what hermes alone writes."""
    own = ("manifest.json", "model.mal", "progress.json", "optimizer.safetensors")
    return {name: data for name, data in files.items() if name not in own}


def test_a_checkpoint_is_fetched_whole_and_once(hub, files, tmp_path):
    hub.repos["me/small"] = Repo([files])
    found = fetch_to(hub, tmp_path)
    assert sorted(path.name for path in found.folder.iterdir()) == sorted(
        files.keys() - {"README.md", ".gitattributes"}
    )
    assert open_checkpoint(found.folder).resumable
    assert (found.folder.name, found.notes) == (hub.repos["me/small"].sha(), ())
    asked = len(hub.asked)
    assert fetch_to(hub, tmp_path) == found
    assert hub.asked[asked:] == ["GET /api/models/me/small/revision/main"]
    assert fetch_to(hub, tmp_path, HubName("me/small", found.commit)).folder == found.folder
    assert len(hub.asked) == asked + 1  # a commit never changes


def test_of_a_foreign_repository_only_what_hermes_reads_is_fetched(hub, files, tmp_path):
    held = foreign(files) | {"pytorch_model.bin": b"x" * 999, "onnx/model.safetensors": b"x"}
    hub.repos["me/small"] = Repo([held])
    found = fetch_to(hub, tmp_path)
    names = {path.name for path in found.folder.iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors",
                     "tokenizer.json", "tokenizer_config.json"}  # fmt: skip
    assert open_model(found.folder).spec.num_layers == 2


def test_shards_are_fetched_as_the_index_names_them(hub, files, tmp_path):
    index = {"metadata": {}, "weight_map": {"a": "part-1.safetensors", "b": "../b.safetensors"}}
    held = foreign(files) | {"model.safetensors.index.json": json.dumps(index).encode()}
    held["part-1.safetensors"] = held.pop("model.safetensors")
    hub.repos["me/small"] = Repo([held | {"consolidated.safetensors": b"x"}])
    names = {path.name for path in fetch_to(hub, tmp_path).folder.iterdir()}
    assert {name for name in names if ".safetensors" in name} == {
        "part-1.safetensors",
        "model.safetensors.index.json",
    }


def test_a_revision_is_a_commit_of_its_own(hub, files, tmp_path):
    hub.repos["me/small"] = Repo([foreign(files), foreign(files) | {"vocab.json": b"{}"}])
    old = hub.repos["me/small"].sha(0)
    assert fetch_to(hub, tmp_path, HubName("me/small", old)).commit == old
    assert fetch_to(hub, tmp_path).commit != old


def test_without_the_hub_a_whole_copy_is_taken_and_said(hub, files, tmp_path):
    hub.repos["me/small"] = Repo([files])
    found = fetch_to(hub, tmp_path)
    hub.down = 503
    again = fetch_to(hub, tmp_path)
    assert again.folder == found.folder
    assert again.notes == (
        f"hf://me/small: the Hub answered 503; using the copy of commit {found.commit[:12]}",
    )
    with pytest.raises(StorageError, match=r"^hf://me/other: the Hub answered 503$"):
        fetch_to(hub, tmp_path, HubName("me/other"))
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
        fetch_to(hub, tmp_path)
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
        fetch_to(hub, tmp_path)
    hub.down = None
    setattr(hub, fault, ())
    found = fetch_to(hub, tmp_path)
    assert (found.folder / file).read_bytes() == files[file]


def test_a_torn_repository_is_refused(hub, files, tmp_path):
    del files["tokenizer.json"]
    hub.repos["me/small"] = Repo([files])
    missing = r"^hf://me/small is incomplete: tokenizer.json is missing"
    with pytest.raises(CheckpointError, match=missing):
        fetch_to(hub, tmp_path)
    hub.repos["me/small"] = Repo([{"README.md": b"words"}])
    with pytest.raises(CheckpointError, match=r"no model hermes reads: it has no config\.json"):
        fetch_to(hub, tmp_path)


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
        fetch_to(hub, tmp_path, parse_hub_name(f"hf://{name}"))
    assert str(told.value) == sentence
    assert told.value.__cause__ is None
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch_to(hub, tmp_path, HubName("me/private")).commit


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


def test_without_the_library_one_line_says_what_to_install(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert run(["generate", "--checkpoint", "hf://me/small", "--prompt", "a"]) == 1
    said = capfd.readouterr().err
    assert said.startswith("Error: models on the Hub need huggingface_hub, which is not installed")
    assert said.endswith("pip install 'hermes-llm[hub]'\n")
    assert said.count("\n") == 1


def test_lines_about_each_attempt_are_not_printed_raw(caplog):
    hub_client.require_hub()
    logger = logging.getLogger("huggingface_hub.utils._http")
    logger.warning("'timed out' thrown while requesting GET https://hub/a")
    logger.warning("Retrying in 2s [Retry 1/5].")
    logger.warning("Rate limited. Waiting 3.0s before retry [Retry 1/5].")
    assert caplog.records == []
    logger.warning("something else")
    assert [one.getMessage() for one in caplog.records] == ["something else"]
