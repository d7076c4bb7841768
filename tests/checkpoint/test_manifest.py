"""A checkpoint that is torn, altered or foreign is named before a tensor of it is used."""

import os
import random
from hashlib import sha256

import pytest

from hermes.checkpoint import open_checkpoint, verify
from hermes.checkpoint.manifest import MANIFEST
from hermes.errors import CheckpointError
from tests.checkpoint.support import require_equal, resealed, save_at


def refused(path):
    """The checkpoint is refused with one sentence that names it."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def every_bit_of_the_manifest_counts(folder, bits=8, share=1):
    """`bits` of a `share` of the bytes are flipped, one after the other."""
    path = save_at(folder, 1)
    file = path / MANIFEST
    data = file.read_bytes()
    chance = random.Random("manifest")
    for byte in chance.sample(range(len(data)), len(data) // share):
        for bit in chance.sample(range(8), bits):
            changed = bytearray(data)
            changed[byte] ^= 1 << bit
            file.write_bytes(changed)
            with pytest.raises(CheckpointError, match=r"damaged|later hermes"):
                verify(path, hashes=False)
    file.write_bytes(data)
    verify(path)


def test_any_bit_of_the_manifest_counts(tmp_path):
    every_bit_of_the_manifest_counts(tmp_path, bits=1, share=5)


@pytest.mark.long
def test_every_bit_of_the_manifest_counts(tmp_path):
    every_bit_of_the_manifest_counts(tmp_path)


def flipped_bits_are_seen(folder, count):
    path = save_at(folder, 1)
    chance = random.Random("bits")
    files = sorted(file for file in path.iterdir() if file.name != MANIFEST)
    for _ in range(count):
        file = chance.choice(files)
        data = file.read_bytes()
        changed = bytearray(data)
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        file.write_bytes(changed)
        assert f"{file} was altered: its SHA-256 is" in refused(path)
        file.write_bytes(data)
    require_equal(open_checkpoint(path), 1)


def test_a_flipped_bit_of_any_file_is_seen(tmp_path):
    flipped_bits_are_seen(tmp_path, 60)


@pytest.mark.long
def test_every_byte_of_every_file_counts(tmp_path):
    path = save_at(tmp_path, 1)
    for file in sorted(path.iterdir()):
        data = file.read_bytes()
        for i in range(len(data)):
            file.write_bytes(data[:i] + bytes([data[i] ^ 0x10]) + data[i + 1 :])
            refused(path)
        file.write_bytes(data)
    require_equal(open_checkpoint(path), 1)


def truncation_is_seen(folder, count):
    path = save_at(folder, 1)
    chance = random.Random("cuts")
    for file in sorted(path.iterdir()):
        data = file.read_bytes()
        sizes = (
            chance.sample(range(len(data)), min(count, len(data))) if count else range(len(data))
        )
        for size in sizes:
            file.write_bytes(data[:size])
            refused(path)
        file.write_bytes(data)
    require_equal(open_checkpoint(path), 1)


def test_truncation_of_any_file_is_seen(tmp_path):
    truncation_is_seen(tmp_path, 15)


@pytest.mark.long
def test_truncation_at_every_length_is_seen(tmp_path):
    truncation_is_seen(tmp_path, 0)


def test_a_missing_file_is_named(tmp_path):
    path = save_at(tmp_path, 1)
    (path / "optimizer.safetensors").unlink()
    assert refused(path) == f"checkpoint {path} is torn: optimizer.safetensors is missing"


def test_a_file_too_many_is_named(tmp_path):
    path = save_at(tmp_path, 1)
    (path / "model-00001-of-00002.safetensors").write_bytes(b"")
    assert "holds model-00001-of-00002.safetensors, which is not in its manifest" in refused(path)


def test_hidden_files_of_the_system_are_passed_over(tmp_path):
    path = save_at(tmp_path, 1)
    (path / ".DS_Store").write_bytes(b"x")
    require_equal(open_checkpoint(path), 1)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "device"])
def test_what_is_no_regular_file_is_refused_without_opening_it(tmp_path, kind):
    path = save_at(tmp_path, 1)
    file = path / "model.safetensors"
    file.rename(tmp_path / "elsewhere")
    match kind:
        case "link":
            file.symlink_to(tmp_path / "elsewhere")
        case "pipe":
            os.mkfifo(file)
        case "folder":
            file.mkdir()
        case "device":
            file.symlink_to("/dev/zero")
    assert refused(path) == f"{file} is not a regular file"


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "/etc/passwd",
        "a/b",
        "..",
        ".",
        "",
        "a\\b",
        "a\0b",
        ".hidden",
        "~",
        "file://x",
        "%2e%2e%2fx",
        "C:x",
        "manifest.json",
        "x" * 200,
        "\u00e9",
    ],
)
def test_a_manifest_may_not_lead_out_of_its_folder(tmp_path, name):
    path = save_at(tmp_path, 1)
    resealed(path, files={name: {"size": 1, "sha256": "0" * 64}})
    assert "which is not a name for a file of a checkpoint" in refused(path)


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"size": 1},
        {"size": "1", "sha256": "0" * 64},
        {"size": True, "sha256": "0" * 64},
        {"size": -1, "sha256": "0" * 64},
        {"size": 1, "sha256": "0" * 63},
        {"size": 1, "sha256": "A" * 64},
        {"size": 1, "sha256": 5},
        {"size": 1, "sha256": "0" * 64, "more": 1},
        [],
        None,
    ],
)
def test_a_manifest_must_give_size_and_hash(tmp_path, entry):
    path = save_at(tmp_path, 1)
    resealed(path, files={"config.json": entry})
    assert "must give size and sha256 of 'config.json'" in refused(path)


def test_a_key_given_twice_is_refused(tmp_path):
    """One flipped bit can turn a file's name into another's, and leave the first unchecked."""
    path = save_at(tmp_path, 1)
    text = (path / MANIFEST).read_text().split('  "sha256"')
    body = (path / MANIFEST).read_text().rpartition('  "sha256"')[0]
    body = body.replace('"config.json"', '"model.mal"')
    digest = sha256(body.encode()).hexdigest()
    (path / MANIFEST).write_text(f'{body}  "sha256": "{digest}"\n}}\n')
    assert len(text) > 1
    assert "the key 'model.mal' is given twice" in refused(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": "other"}, "is not of a hermes checkpoint"),
        ({"version": 0}, "has no version of the format"),
        ({"version": "1"}, "has no version of the format"),
        ({"version": True}, "has no version of the format"),
        ({"extra": 1}, "must have exactly files, format, run, sha256, step, version"),
        ({"step": -1}, "has a run, step or files of the wrong type"),
        ({"run": 5}, "has a run, step or files of the wrong type"),
        ({"files": []}, "has a run, step or files of the wrong type"),
        ({"step": 2}, "is of step 2 by its manifest"),
        ({"run": "run-b"}, "of step 1 or another run by its progress.json"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(tmp_path, changes, reason):
    path = save_at(tmp_path, 1)
    resealed(path, **changes)
    assert reason in refused(path)
