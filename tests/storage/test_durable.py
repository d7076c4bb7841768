"""Writing: a file is replaced whole or not at all, and nothing else writes files of value."""

import ast
import os
import re
import stat
import threading
from pathlib import Path

import pytest

from hermes.errors import StorageError
from hermes.storage.append_only import AppendOnlyFile
from hermes.storage.durable import Disk, link_or_copy, write_atomically
from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (ROOT / "hermes", ROOT / "cli" / "hermes_cli")
# Files that may write without storage/durable, and why.
EXEMPT = {
    "hermes/storage/durable.py": "the one place",
    "hermes/storage/append_only.py": "lines that only grow, synced as there",
    "hermes/storage/temporary.py": "deletes temporary folders that nobody holds",
    "hermes/checkpoint/run_lock.py": "a locked file must stay the same file; a new one has no lock",
    "hermes/data/files.py": "spools standard input for the run of one command",
    "hermes/rust_panics.py": "what a library prints meanwhile, in a file without a name",
    "hermes/data/token_stream.py": "tokens for the run of one command, in a temporary folder",
    "hermes/training/hub_upload.py": "links checkpoints while they are pushed, temporary",
    "cli/hermes_cli/commands/conformance.py": "tries whether a report could be written",
    "cli/hermes_cli/commands/doctor_distributed.py": "a probe that is deleted at once",
    "cli/hermes_cli/display/robust_stderr.py": "opens /dev/null",
    "cli/hermes_cli/launch/crash_log.py": "faulthandler writes to it from a process that is stuck",
    "cli/hermes_cli/launch/launcher.py": "addresses for the processes it starts, temporary",
    "cli/hermes_cli/launch/pulse.py": "signs of work for the launcher, temporary",
    "cli/hermes_cli/launch/stderr_filter.py": "writes to a pipe",
    "cli/hermes_cli/launch/worker_status.py": "what processes tell their launcher, temporary",
    "cli/hermes_cli/main.py": "opens /dev/null",
}
METHODS = {"write_text", "write_bytes", "rename", "hardlink_to", "symlink_to", "touch"}
MODULES = {
    "os": {"replace", "rename", "link", "symlink", "truncate", "ftruncate", "pwrite"},
    "shutil": {"copy", "copy2", "copyfile", "copyfileobj", "copytree", "move", "rmtree"},
    "np": {"save", "savez", "savez_compressed", "savetxt", "memmap"},
    "tempfile": {"NamedTemporaryFile", "mkstemp"},
}
WRITING = re.compile(r"[wax+]")


def writes(call):
    """Whether a call opens a file for writing, or changes the names in a folder."""
    text = ast.unparse(call.func)
    owner, _, name = text.rpartition(".")
    values = [ast.unparse(one) for one in (*call.args, *(k.value for k in call.keywords))]
    if name == "open" and owner == "os":
        return any("O_WRONLY" in one or "O_RDWR" in one for one in values)
    if name == "open":
        at = 0 if owner else 1  # Path.open(mode), open(file, mode)
        modes = [*call.args[at : at + 1], *(k.value for k in call.keywords if k.arg == "mode")]
        literals = [m.value for m in modes if isinstance(m, ast.Constant)]
        return any(isinstance(m, str) and len(m) < 5 and WRITING.search(m) for m in literals)
    if owner in MODULES:
        # A memory map may only be read, and an archive may be made in memory.
        harmless = owner == "np" and {"'r'", "archive"} & set(values)
        return name in MODULES[owner] and not harmless
    return name in METHODS and owner not in ("disk", "self._disk")


def writing_lines(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if writes(call)]


PATHS = [path for folder in FOLDERS for path in sorted(folder.rglob("*.py"))]


@pytest.mark.parametrize("path", PATHS, ids=[str(path.relative_to(ROOT)) for path in PATHS])
def test_only_storage_durable_writes_files_of_value(path):
    found = writing_lines(path)
    if str(path.relative_to(ROOT)) in EXEMPT:
        assert found, "it writes no more: take it out of the list"
    else:
        assert not found, "write with hermes.storage.durable, or say above why not"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("open(p, 'w')", True),
        ("open(p, mode='ab+')", True),
        ("p.open('a', encoding='utf-8')", True),
        ("open(p, 'rb')", False),
        ("open(p)", False),
        ("p.open()", False),
        ("os.open(p, os.O_RDWR | os.O_CREAT)", True),
        ("os.open(p, os.O_RDONLY)", False),
        ("path.write_text(text)", True),
        ("os.replace(a, b)", True),
        ("shutil.copyfile(a, b)", True),
        ("disk.rename(a, b)", False),
        ("np.savez(file, x=x)", True),
        ("np.memmap(p, '<u2', 'r')", False),
        ("np.zeros(3)", False),
        ("text.replace('a', 'b')", False),
    ],
)
def test_the_law_sees_what_writes(code, expected):
    assert bool(writes(ast.parse(code).body[0].value)) is expected


def test_a_file_is_written_and_replaced(tmp_path):
    file = tmp_path / "a.txt"
    write_atomically(file, b"one")
    assert file.read_bytes() == b"one"
    write_atomically(file, b"two, longer")
    assert file.read_bytes() == b"two, longer"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_new_file_has_the_usual_permissions_and_a_replaced_one_keeps_its_own(tmp_path):
    file = tmp_path / "a.txt"
    mask = os.umask(0o027)
    try:
        write_atomically(file, b"one")
    finally:
        os.umask(mask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    file.chmod(0o604)
    write_atomically(file, b"two")
    assert stat.S_IMODE(file.stat().st_mode) == 0o604


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "a.txt", tmp_path / "link.txt"
    target.write_bytes(b"one")
    link.symlink_to(target)
    write_atomically(link, b"two")
    assert link.is_symlink()
    assert target.read_bytes() == b"two"


def test_a_pipe_is_written_to(tmp_path):
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    write_atomically(pipe, b"text")
    reader.join(PATIENCE)
    assert found == [b"text"]


@pytest.mark.parametrize("kind", ["create", "write", "sync", "rename"])
def test_what_the_system_refuses_leaves_the_old_file(tmp_path, kind):
    file = tmp_path / "a.txt"
    file.write_bytes(b"old")

    def refuse(operation):
        if operation.kind == kind:
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=rf"^cannot write {file}: no space left on device$"):
        write_atomically(file, b"new", disk=Disk(refuse))
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_contents_are_synced_before_the_rename_and_the_folder_after(tmp_path):
    seen = []
    write_atomically(tmp_path / "a", b"x", disk=Disk(lambda o: seen.append(o.kind)))
    assert seen == ["create", "write", "sync", "rename", "sync folder"]
    seen.clear()
    disk = Disk(lambda operation: seen.append(operation.kind))
    write_atomically(tmp_path / "a", b"y", disk=disk, sync_name=False)
    assert seen == ["create", "write", "sync", "rename"]


def test_a_folder_in_the_way_and_a_missing_folder_are_refused(tmp_path):
    with pytest.raises(StorageError, match=rf"^cannot write {tmp_path}: is a directory$"):
        write_atomically(tmp_path, b"x")
    missing = tmp_path / "none" / "a"
    with pytest.raises(StorageError, match=rf"^cannot write {missing}: no such file or directory$"):
        write_atomically(missing, b"x")


def test_a_log_keeps_its_first_lines_and_grows(tmp_path):
    file = tmp_path / "log"
    file.write_bytes(b"1\n2\n3\ntorn")
    log = AppendOnlyFile(file, lambda line: line in (b"1\n", b"2\n"))
    assert file.read_bytes() == b"1\n2\n"
    log.append(b"4")
    assert file.read_bytes() == b"1\n2\n4\n"  # for who watches it, before any sync
    log.sync()
    log.close()
    with pytest.raises(StorageError, match=r"^cannot write .*none/log: no such file or directory$"):
        AppendOnlyFile(tmp_path / "none" / "log", lambda line: True)


def test_a_log_on_a_full_disk_is_named_also_when_it_is_closed(tmp_path):
    """What could not be written is tried again at the end."""
    log = AppendOnlyFile(tmp_path / "log", lambda line: True)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._file.fileno())
    os.close(full)
    for act in (lambda: log.append(b"1"), log.close):
        with pytest.raises(StorageError, match=r"^cannot write .*/log: no space left on device$"):
            act()


def test_a_file_is_linked_or_copied(tmp_path, monkeypatch):
    source = tmp_path / "a"
    source.write_bytes(b"x")
    link_or_copy(source, tmp_path / "b", Disk())
    assert (tmp_path / "b").samefile(source)

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(source, tmp_path / "c", Disk())
    assert not (tmp_path / "c").samefile(source)
    assert (tmp_path / "c").read_bytes() == b"x"
