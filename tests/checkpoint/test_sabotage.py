"""Defects planted in the writer and the reader: each must break a law of the other tests."""

import os
from hashlib import sha256

import pytest

import hermes.checkpoint.manifest as manifest
import hermes.checkpoint.writer as writing
import hermes.storage.safetensors as tensors
import hermes.storage.strict_json as jsontext
from hermes.checkpoint import Disk, Search, open_checkpoint
from hermes.checkpoint.manifest import MANIFEST, Manifest
from hermes.errors import HermesError
from hermes.storage.durable import delete_folder, write_file
from tests.checkpoint import test_faults, test_find, test_manifest, test_retention
from tests.checkpoint.laws import record, survives_kill, survives_power_loss
from tests.storage import test_safetensors_hostile as test_hostile

STATES = 150


def breaks(law, *arguments):
    """The law fails with the defect in place; that it holds without is the other tests' matter."""
    with pytest.raises((AssertionError, pytest.fail.Exception, HermesError)):
        law(*arguments)


def any_kill():
    """Kills around the moments when a manifest is written, where such defects live."""
    log = record()[0]
    made = [i for i, o in enumerate(log) if o.kind == "create" and o.path.name == MANIFEST]
    for point in made:
        for offset in range(-1, 6):
            survives_kill(point + offset, torn=False)


def test_files_that_are_not_synced(monkeypatch):
    monkeypatch.setattr(Disk, "sync", lambda self, descriptor, path: None)
    breaks(survives_power_loss, STATES, "files")


def test_a_folder_that_is_not_synced_before_its_rename(monkeypatch):
    honest = Disk.sync_folder

    def sync_folder(self, path):
        if not path.name.startswith(".tmp-"):
            honest(self, path)

    monkeypatch.setattr(Disk, "sync_folder", sync_folder)
    breaks(survives_power_loss, STATES, "folder")


def test_a_name_that_is_not_synced_after_the_rename(monkeypatch):
    honest = Disk.sync_folder

    def sync_folder(self, path):
        if path.name.startswith(".tmp-"):
            honest(self, path)

    monkeypatch.setattr(Disk, "sync_folder", sync_folder)
    breaks(survives_power_loss, STATES, "name")


def plant_write(monkeypatch, between):
    """`_write_files` as it is, calling `between(folder, disk)` before it writes the manifest."""

    def write(folder, files, run, step, workers, disk):
        written = {name: write_file(folder / name, files[name], disk) for name in files}
        at = between(folder, disk) or folder
        write_file(at / MANIFEST, [Manifest(run, step, written).render()], disk)
        disk.sync_folder(at)

    monkeypatch.setattr(writing, "_write_files", write)


def test_the_plant_alone_breaks_nothing(monkeypatch):
    plant_write(monkeypatch, lambda folder, disk: None)
    survives_power_loss(20, "plant")
    any_kill()


def test_the_old_checkpoint_deleted_before_the_new_one_is_whole(monkeypatch):
    def delete_old(folder, disk):
        for old in folder.parent.glob("step-*"):
            delete_folder(old, disk)

    plant_write(monkeypatch, delete_old)
    breaks(any_kill)


def test_a_manifest_written_after_the_rename(monkeypatch):
    honest = Disk.rename

    def rename(self, path, target):
        if path.name.startswith(".tmp-") and not path.exists():
            return  # it has its name already
        honest(self, path, target)

    def rename_early(folder, disk):
        # .tmp-step-00000002-0a1b2c3d becomes step-00000002 too soon.
        final = folder.parent / folder.name[len(".tmp-") : -len("-0a1b2c3d")]
        for old in folder.parent.glob("step-*"):
            honest(disk, old, old.with_name(f".trash-{old.name}"))
        honest(disk, folder, final)
        return final

    monkeypatch.setattr(Disk, "rename", rename)
    plant_write(monkeypatch, rename_early)
    breaks(any_kill)


def test_numbers_that_are_not_looked_at(monkeypatch, tmp_path):
    monkeypatch.setattr(tensors, "_is_finite", lambda values: True)
    breaks(test_faults.test_what_is_no_number_is_never_saved, tmp_path, "params", float("nan"))


def test_a_manifest_that_is_not_hashed(monkeypatch, tmp_path):
    class Match(dict):
        def start(self):
            return 0

    class Blind:
        """Finds every text to end with the hash that it should."""

        def search(self, data):
            return Match({1: sha256(b"").hexdigest().encode()})

    monkeypatch.setattr(manifest, "LAST_LINES", Blind())
    breaks(test_manifest.every_bit_of_the_manifest_counts, tmp_path, 1)


def test_keys_given_twice(monkeypatch, tmp_path):
    monkeypatch.setattr(jsontext, "build_object", dict)
    breaks(test_hostile.every_hostile_header_is_refused, tmp_path)


def test_hashes_that_are_not_compared(monkeypatch, tmp_path):
    honest = manifest.verify_files
    monkeypatch.setattr(
        "hermes.checkpoint.reader.verify_files",
        lambda folder, found, hashes: honest(folder, found, hashes=False),
    )
    breaks(test_manifest.flipped_bits_are_seen, tmp_path, 50)


def test_sizes_and_hashes_that_are_not_compared(monkeypatch, tmp_path):
    monkeypatch.setattr("hermes.checkpoint.reader.verify_files", lambda *_, **__: None)
    breaks(test_manifest.truncation_is_seen, tmp_path, 20)


def test_the_newest_taken_by_its_name(monkeypatch, tmp_path):
    def newest(run, **_):
        return Search(open_checkpoint(max(run.glob("step-*"))), ())

    monkeypatch.setattr(test_find, "find_newest", newest)
    breaks(test_find.test_a_damaged_newest_is_passed_over_with_the_reason, tmp_path)


def test_rotation_that_does_not_verify(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "hermes.checkpoint.retention.verify",
        lambda path, hashes=False: manifest.read_manifest(path),
    )
    breaks(test_retention.test_nothing_is_deleted_for_a_damaged_newest, tmp_path)


def test_a_save_onto_the_final_name(monkeypatch):
    honest = writing._write_files

    def write(folder, files, run, step, workers, disk):
        honest(folder.with_name(writing.name_step_folder(step)), files, run, step, workers, disk)

    monkeypatch.setattr(writing, "_write_files", write)
    breaks(any_kill)


def test_a_short_write_that_is_not_looked_at(monkeypatch):
    """os.write may write less than it was given; a writer that does not look loses the rest."""

    def write(self, descriptor, path, data):
        os.write(descriptor, data[: max(1, len(data) // 2)])

    monkeypatch.setattr(Disk, "write", write)
    breaks(survives_kill, 10**6, False)
