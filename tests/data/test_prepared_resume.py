"""A preparation that was stopped is resumed to the same bytes, or refused for another text."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from hermes.data.prepared import Part, PreparationOptions, prepare_tokens
from hermes.errors import DataError, StorageError
from hermes.storage.durable import Disk
from hermes.tokenizer import train_tokenizer
from tests.data.preparation import SMALL, list_bytes
from tests.data.support import TEXT
from tests.data.test_sources import write_parquet


class Stopped(Exception):
    """Stands for the end of the process."""


def test_an_attempt_that_stops_anywhere_is_resumed_to_the_same_bytes(
    data, prepared, tokenizer, tmp_path
):
    expected = list_bytes(prepared)
    operations = []
    prepare_tokens(
        data, tokenizer, tmp_path / "counted", options=SMALL, disk=Disk(operations.append)
    )
    last = len(operations) - 1  # syncs the manifest's name
    for stop in (*range(0, last, 5), last):
        folder, left = tmp_path / f"stopped-{stop}", iter(range(stop))

        def count(operation, left=left):
            if next(left, None) is None:
                raise Stopped

        with pytest.raises(Stopped):
            prepare_tokens(data, tokenizer, folder, options=SMALL, disk=Disk(count))
        assert (folder / "manifest.json").exists() == (stop == last)
        finished = {path: path.stat().st_mtime_ns for path in folder.glob("*-*.json")}
        prepare_tokens(data, tokenizer, folder, options=SMALL)
        assert list_bytes(folder) == expected, stop
        shards = [path.with_suffix(".bin") for path in finished if "group" not in path.name]
        for path in shards:  # a finished shard was not written again
            assert path.stat().st_mtime_ns <= finished[path.with_suffix(".json")]


# Ends at once when it is about to do anything more, once it has finished so many shards.
KILLED = """
import os, signal, sys
from pathlib import Path
from hermes.data.prepared import PreparationOptions, prepare_tokens
from hermes.storage.durable import Disk
from hermes.tokenizer import Tokenizer
data, tokenizer, output, shards = sys.argv[1:]
def end(operation):
    if len(list(Path(output).glob("0*.json"))) >= int(shards):
        os.kill(os.getpid(), signal.SIGKILL)
options = PreparationOptions(shard_size=2000)
prepare_tokens(data, Tokenizer.load(tokenizer), output, options=options, disk=Disk(end))
"""


def test_a_killed_process_is_resumed_to_the_same_bytes(data, prepared, tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    folder = tmp_path / "killed"
    arguments = [str(data), str(tmp_path / "tokenizer.json"), str(folder)]
    for shards, code in ((1, -signal.SIGKILL), (4, -signal.SIGKILL), (1000, 0)):
        done = subprocess.run([sys.executable, "-c", KILLED, *arguments, str(shards)])
        assert done.returncode == code
    assert list_bytes(folder) == list_bytes(prepared)


def test_a_full_disk_loses_no_finished_shard(data, prepared, tokenizer, tmp_path):
    room = [6000]

    def fill(operation):
        room[0] -= len(operation.data)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = tmp_path / "full"
    with pytest.raises(StorageError, match=r"^cannot write .*: no space left on device$"):
        prepare_tokens(data, tokenizer, folder, options=SMALL, disk=Disk(fill))
    assert list(folder.glob("0*.json"))
    prepare_tokens(data, tokenizer, folder, options=SMALL)
    assert list_bytes(folder) == list_bytes(prepared)


def test_what_is_whole_is_not_made_again(data, prepared, tokenizer):
    before = list_bytes(prepared)
    done = prepare_tokens(data, tokenizer, prepared, options=SMALL)
    assert done.notes == ("nothing is left to do",)
    assert list_bytes(prepared) == before


def test_what_a_kill_left_behind_the_manifest_is_cleared_away(data, prepared, tokenizer):
    before = {path.name for path in prepared.iterdir()}
    for name in ("plan.json", "group-00000.json", "00000-00000.json", ".tmp-00000-00000-1f"):
        (prepared / name).write_text("{}")
    (prepared / "my-notes.json").write_text("{}")
    prepare_tokens(data, tokenizer, prepared, options=SMALL)
    assert {path.name for path in prepared.iterdir()} == before | {"my-notes.json"}


def test_other_text_of_the_same_size_is_noticed_when_whole(data, prepared, tokenizer, tmp_path):
    path = data / "b.txt"
    later = path.stat().st_mtime_ns + 10**11
    os.utime(path, ns=(later, later))  # touched, and not changed
    assert prepare_tokens(data, tokenizer, prepared, options=SMALL).notes == (
        "nothing is left to do",
    )
    path.write_text(path.read_text().replace("cat", "cow"))
    os.utime(path, ns=(later, later))
    with pytest.raises(DataError, match=rf"^{prepared} was prepared from {path} as it was before"):
        prepare_tokens(data, tokenizer, prepared, options=SMALL)


def test_what_cannot_be_compared_again_is_said(tokenizer, tmp_path):
    table, pipe = tmp_path / "a.parquet", tmp_path / "pipe.txt"
    write_parquet(table, [{"text": "cat"}, {"text": "dog"}])
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(TEXT.encode()))
    writer.start()
    prepare_tokens([table, pipe], tokenizer, tmp_path / "out")
    writer.join()
    later = table.stat().st_mtime_ns + 10**11
    os.utime(table, ns=(later, later))
    assert prepare_tokens([table, pipe], tokenizer, tmp_path / "out").notes == (
        f"{table} was written to since, and only its size was compared",
        f"{pipe} is not read again to be compared",
        "nothing is left to do",
    )


def test_a_folder_of_something_else_is_refused(data, prepared, tokenizer, tmp_path, write):
    with pytest.raises(DataError, match=r"^.* is not empty \(a.jsonl\) and no preparation was"):
        prepare_tokens(data, tokenizer, data)
    other = PreparationOptions(shard_size=3000)
    with pytest.raises(
        DataError,
        match=r"was made with shard_size 2000, and not 3000; give another --output, or delete it "
        rf"\(rm -r {prepared}\) and prepare the text anew$",
    ):
        prepare_tokens(data, tokenizer, prepared, options=other)
    made = train_tokenizer([TEXT], vocab_size=280)
    with pytest.raises(DataError, match=r"was made with another tokenizer; give"):
        prepare_tokens(data, made, prepared, options=SMALL)
    (data / "b.txt").write_text(TEXT * 901)
    # Bad records may be left out from here on, so it is not that which is refused.
    for options in (SMALL, PreparationOptions(shard_size=2000, max_bad_records=0.1)):
        with pytest.raises(DataError, match=r"was made with .*b.txt of .* bytes, which has .* now"):
            prepare_tokens(data, tokenizer, prepared, options=options)


def test_a_preparation_stopped_by_a_bad_record_goes_on_without_it(tokenizer, tmp_path):
    records = [json.dumps({"text": TEXT * 20}) for _ in range(60)]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join([*records, '{"other": 1}', *records]))
    skipping = PreparationOptions(shard_size=2000, max_bad_records=0.1)
    with pytest.raises(DataError, match=r"data.jsonl:61: "):
        prepare_tokens(data, tokenizer, tmp_path / "out", options=SMALL)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.bin")}
    assert kept
    prepare_tokens(data, tokenizer, tmp_path / "out", options=skipping)
    prepare_tokens(data, tokenizer, tmp_path / "at-once", options=skipping)
    for path in (tmp_path / "at-once").iterdir():
        if path.name != "provenance.json":
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert (
        kept.items()
        <= {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.bin")}.items()
    )
    with pytest.raises(DataError, match=r"was made with max_bad_records 0\.1, and not None"):
        prepare_tokens(data, tokenizer, tmp_path / "out", options=SMALL)


def test_data_that_is_refused_before_a_shard_is_finished_leaves_the_folder_to_others(
    data, prepared, tokenizer, tmp_path
):
    wrong, empty = tmp_path / "latin1.txt", tmp_path / "texts" / "empty.txt"
    wrong.write_bytes(b"caf\xe9\n")
    empty.parent.mkdir()
    empty.touch()
    folder = tmp_path / "out"
    for mistyped in (wrong, empty, empty.parent):
        with pytest.raises(DataError):
            prepare_tokens(mistyped, tokenizer, folder, options=SMALL)
        assert not folder.exists()
    prepare_tokens(data, tokenizer, folder, options=SMALL)
    assert list_bytes(folder) == list_bytes(prepared)


def test_a_part_whose_data_is_refused_leaves_the_folder_to_the_other_parts(
    data, tokenizer, tmp_path
):
    wrong, folder = tmp_path / "latin1.txt", tmp_path / "out"
    wrong.write_bytes(b"caf\xe9\n")
    for part in (Part(1, 2), None):
        with pytest.raises(DataError, match=r"latin1\.txt:1: not UTF-8"):
            prepare_tokens(wrong, tokenizer, folder, options=SMALL, part=part)
    with pytest.raises(DataError, match=r"was begun with .*latin1\.txt"):
        prepare_tokens(data, tokenizer, folder, options=SMALL)


def test_a_preparation_that_is_interrupted_before_a_shard_is_finished_leaves_nothing(
    data, tokenizer, tmp_path
):
    for is_begun in (False, True):
        folder = tmp_path / f"{is_begun}"

        def interrupt(progress, folder=folder, is_begun=is_begun):
            if not is_begun or any(folder.glob("[0-9]*.json")):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            prepare_tokens(data, tokenizer, folder, options=SMALL, watch=interrupt)
        assert folder.exists() == is_begun


def test_other_text_of_the_same_size_is_noticed_when_resuming(data, tokenizer, tmp_path):
    folder = tmp_path / "begun"
    prepare_tokens(data, tokenizer, folder, options=SMALL, part=Part(2, 2))
    path = data / "b.txt"
    path.write_text(path.read_text().replace("cat", "cow"))
    for receipt in folder.glob("group-*.json"):
        receipt.unlink()
    with pytest.raises(DataError, match=r"was prepared from another text than the data has now"):
        prepare_tokens(data, tokenizer, folder, options=SMALL, part=Part(2, 2))


def test_a_source_that_changes_while_it_is_read_is_refused(data, tokenizer, tmp_path):
    def grow(progress):
        with open(data / "b.txt", "a") as file:
            file.write("more")

    with pytest.raises(
        DataError, match=r"b.txt: it changed while it was read \([\d,]+ bytes before, [\d,]+ now\)"
    ):
        prepare_tokens(data, tokenizer, tmp_path / "out", options=SMALL, watch=grow)
