"""Several processes prepare text into one folder at once: one plan, or a refusal.

Each race is played by steps: the second process does its part before an operation of the first.
"""

import errno
import os

import pytest

from hermes.data.prepared import prepare_tokens
from hermes.errors import DataError
from hermes.storage.durable import Disk
from hermes.tokenizer import train_tokenizer
from tests.data.preparation import SMALL, list_bytes
from tests.data.support import TEXT


class Stopped(Exception):
    """Stands for a process that has come so far."""


@pytest.fixture
def other():
    return train_tokenizer([TEXT], vocab_size=280)


def at_the_plan(act):
    """A disk that does something once before plan.json gets its name."""
    acts = [act]

    def before(operation):
        if operation.target is not None and operation.target.name == "plan.json" and acts:
            acts.pop()()

    return Disk(before)


def stop_at_a_shard(operation):
    if operation.path.name.startswith(".tmp-00000-00000.json"):
        raise Stopped


def begin(data, tokenizer, folder):
    """What another process has done once it has written its first tokens."""
    with pytest.raises(Stopped):
        prepare_tokens(data, tokenizer, folder, options=SMALL, disk=Disk(stop_at_a_shard))


def refuse_links(path, target):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(path))


@pytest.mark.parametrize("has_links", [True, False])
def test_of_two_tokenizers_the_second_to_begin_is_refused(
    data, prepared, tokenizer, other, tmp_path, monkeypatch, has_links
):
    """Both found an empty folder; the first goes on to the bytes that it makes alone."""
    if not has_links:
        monkeypatch.setattr(os, "link", refuse_links)
    folder = tmp_path / "shared"
    disk = at_the_plan(lambda: begin(data, tokenizer, folder))
    with pytest.raises(DataError, match=r"shared was begun with another tokenizer; give another"):
        prepare_tokens(data, other, folder, options=SMALL, disk=disk)
    prepare_tokens(data, tokenizer, folder, options=SMALL)
    assert list_bytes(folder) == list_bytes(prepared)


@pytest.mark.parametrize("is_other", [True, False])
def test_a_folder_that_was_finished_meanwhile_stays_as_it_is(
    data, prepared, tokenizer, other, tmp_path, is_other
):
    folder = tmp_path / "shared"
    disk = at_the_plan(lambda: prepare_tokens(data, tokenizer, folder, options=SMALL))
    with pytest.raises(DataError, match=r"shared was prepared by another process meanwhile; run"):
        prepare_tokens(data, other if is_other else tokenizer, folder, options=SMALL, disk=disk)
    assert list_bytes(folder) == list_bytes(prepared)


def test_without_links_a_plan_that_was_replaced_is_noticed(
    data, tokenizer, other, tmp_path, monkeypatch
):
    """Both wrote their plan there; who reads another than its own makes no manifest."""
    monkeypatch.setattr(os, "link", refuse_links)
    monkeypatch.setattr("hermes.storage.durable.Path.exists", lambda path: False)
    folder = tmp_path / "shared"
    replaced = []

    def replace(operation):
        if operation.path.name.startswith(".tmp-00000-00001.json") and not replaced:
            replaced.append(operation)
            begin(data, other, tmp_path / "theirs")
            (tmp_path / "theirs" / "plan.json").rename(folder / "plan.json")

    with pytest.raises(DataError, match=r"shared was begun with another tokenizer; give another"):
        prepare_tokens(data, tokenizer, folder, options=SMALL, disk=Disk(replace))
    assert not (folder / "manifest.json").is_file()


def test_a_part_beside_one_that_has_begun_goes_on_with_its_plan(
    data, prepared, tokenizer, tmp_path
):
    folder = tmp_path / "shared"
    disk = at_the_plan(lambda: begin(data, tokenizer, folder))
    prepare_tokens(data, tokenizer, folder, options=SMALL, disk=disk)
    assert list_bytes(folder) == list_bytes(prepared)
