"""What a disk may hold after the power failed: every synced operation, any of the others.

The log of operations is replayed over folders and files kept as objects. What a sync promised is
kept; of the rest each is kept, lost or (a write) torn, at random. Source of the method: Pillai et
al. 2014, "All file systems are not created equal", OSDI.
"""

from dataclasses import dataclass, field


@dataclass
class File:
    data: bytearray = field(default_factory=bytearray)


@dataclass
class Folder:
    entries: dict = field(default_factory=dict)


def read_tree(path):
    """The tree on the disk, as objects; everything in it counts as synced."""
    if path.is_dir():
        return Folder({entry.name: read_tree(entry) for entry in path.iterdir()})
    return File(bytearray(path.read_bytes()))


def write_tree(tree, path):
    match tree:
        case File(data=data):
            path.write_bytes(data)
        case Folder(entries=entries):
            path.mkdir(exist_ok=True)
            for name, entry in entries.items():
                write_tree(entry, path / name)


@dataclass
class Change:
    """One operation as it would reach the disk: on a folder's entries or on a file's bytes."""

    number: int
    owner: object  # the Folder or File that a sync would have to name
    apply: object  # called with how much of it was kept: 1, or 0.5 for a torn write


def plan(operations, root, path):
    """The changes of a log over `root`, and for each the number of the sync that promised it.

    Replays the log on live objects to learn which object each path meant at the time.
    """
    names = {path: root}

    def learn(tree, at):
        if isinstance(tree, Folder):
            for name, entry in tree.entries.items():
                names[at / name] = entry
                learn(entry, at / name)

    learn(root, path)
    changes, promised, waiting = [], {}, []

    def change(number, owner, apply):
        made = Change(number, owner, apply)
        changes.append(made)
        waiting.append(made)

    written = {}
    for number, operation in enumerate(operations):
        at, kind = operation.path, operation.kind
        parent = names.get(at.parent)
        if kind in ("make folder", "create"):
            made = Folder() if kind == "make folder" else File()
            names[at] = made
            written[id(made)] = 0
            change(number, parent, _link(parent, at.name, made))
        elif kind == "write":
            file = names[at]
            start = written[id(file)]
            written[id(file)] = start + len(operation.data)
            change(number, file, _write(file, start, bytes(operation.data)))
        elif kind == "rename":
            moved = names.pop(at)
            for old in [old for old in names if at in old.parents]:
                names[operation.target / old.relative_to(at)] = names.pop(old)
            names[operation.target] = moved
            assert operation.target.parent == at.parent, "renames stay in their folder"
            change(number, parent, _rename(parent, at.name, operation.target.name, moved))
        elif kind in ("delete", "delete folder"):
            names.pop(at)
            change(number, parent, _unlink(parent, at.name))
        elif kind in ("sync", "sync folder"):
            owner = names[at]
            for made in [made for made in waiting if made.owner is owner]:
                promised[made.number] = number
                waiting.remove(made)
    return changes, promised


def _link(folder, name, made):
    def apply(kept):
        folder.entries[name] = made

    return apply


def _unlink(folder, name):
    def apply(kept):
        folder.entries.pop(name, None)

    return apply


def _rename(folder, old, new, moved):
    def apply(kept):
        folder.entries.pop(old, None)
        folder.entries[new] = moved

    return apply


def _write(file, start, data):
    def apply(kept):
        part = data[: int(len(data) * kept)]
        if len(file.data) < start:
            file.data.extend(bytes(start - len(file.data)))
        file.data[start : start + len(part)] = part

    return apply


def after_power_loss(operations, before, path, crash, random):
    """A tree that the disk may hold when the power fails after `crash` operations."""
    root = _copy(before)
    changes, promised = plan(operations[:crash], root, path)
    # Some crashes lose nearly all that may be lost, some nearly nothing.
    loss = random.choice([0.05, 0.5, 0.95])
    for change in changes:
        if promised.get(change.number, crash) < crash:
            change.apply(1)
        elif random.random() >= loss:
            change.apply(random.choice([1, 1, 0.5]))
    return root


def _copy(tree):
    match tree:
        case File(data=data):
            return File(bytearray(data))
        case Folder(entries=entries):
            return Folder({name: _copy(entry) for name, entry in entries.items()})
