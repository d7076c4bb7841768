"""Prepares text for training: `hermes prepare`, and the cache of `hermes train`.

    OUTPUT/manifest.json  provenance.json  tokenizer.json  [tokenizer_config.json]
    OUTPUT/00000-00000.bin  00000-00000.idx         a shard: its tokens, and its documents
    OUTPUT/plan.json  group-00000.json  00000-00000.json  .tmp-*    while it is being prepared

A shard is finished when its .json is there, which is written last. Finished shards stay whatever
happens, and the next attempt makes the others. The bytes of the result, provenance.json
apart, do not depend on attempts, parts or workers.
"""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hermes.data.encoding_pool import EncodingPool, check_workers
from hermes.data.files import Paths
from hermes.data.prepared.finishing import (
    PrepareResult,
    choose_dtype,
    delete_unfinished,
    describe_whole,
    write_manifest,
)
from hermes.data.prepared.group import (
    GroupReader,
    name_group,
    read_group,
    read_shard,
    write_shards,
)
from hermes.data.prepared.manifest import (
    MANIFEST,
    open_prepared,
    read_manifest,
)
from hermes.data.prepared.plan import (
    PLAN,
    Part,
    Plan,
    PreparationOptions,
    compare_sources,
    describe_difference,
    group_sources,
    is_more_lenient,
    make_plan,
    name_shard,
)
from hermes.data.progress import PreparationProgress, Watch, report_progress
from hermes.data.source_file import SourceFile
from hermes.errors import DataError, HermesError, StorageError, explain_os_error
from hermes.storage.addresses import require_local
from hermes.storage.durable import TEMPORARY, Disk, write_atomically, write_unless_there
from hermes.storage.plain_json import load_json
from hermes.storage.typed_json import build_typed

if TYPE_CHECKING:
    from hermes.tokenizer import Tokenizer

__all__ = ["PrepareResult", "merge_parts", "prepare_tokens"]

# What a plan raises that was not written here, wherever it is damaged.
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, HermesError)

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"


def prepare_tokens(
    paths: Paths,
    tokenizer: "Tokenizer",
    output: str | Path,
    *,
    options: PreparationOptions | None = None,
    workers: int | None = None,
    part: Part | None = None,
    watch: Watch = report_progress,
    disk: Disk | None = None,
) -> PrepareResult:
    """Tokenize documents into the shards of `output`, or resume an earlier attempt.

    workers: as in EncodingPool. part: only this part of the work, without the manifest, which
    `merge_parts` writes. Raises DataError where the output was begun from something else, or a
    source changes meanwhile or changed since, and StorageError; finished shards stay.
    """
    check_workers(workers)
    plan = make_plan(paths, tokenizer, options or PreparationOptions())
    folder, disk = Path(output), disk or Disk()
    done = _open_folder(folder, plan, tokenizer, disk)
    if done:
        delete_unfinished(folder)  # where the last attempt was killed between that and the manifest
        notes = compare_sources(folder, plan)
        return describe_whole(folder, (*notes, "nothing is left to do"))
    mine = part or Part()
    begins_alone = mine.count == 1 and not (folder / PLAN).exists()
    try:
        return _prepare_part(folder, plan, mine, tokenizer, workers, disk, watch)
    except (DataError, KeyboardInterrupt):
        if begins_alone:  # else other parts may be at work by this plan
            _withdraw_plan(folder, plan)
        raise


def merge_parts(output: str | Path, *, watch: Watch = report_progress) -> PrepareResult:
    """Write the manifest of a folder whose parts are all done. Raises DataError, StorageError."""
    from hermes.tokenizer import Tokenizer

    folder = Path(output)
    if (folder / MANIFEST).exists():
        return describe_whole(folder, ("nothing is left to do",))
    try:
        plan = _read_plan(load_json((folder / PLAN).read_bytes()))
    except OSError:
        raise DataError(f"{folder}: no parts of a preparation in it; name their folder") from None
    except UNREADABLE as error:
        raise DataError(_describe_damaged_plan(folder)) from error
    tokenizer = Tokenizer.load(folder / TOKENIZER)
    return write_manifest(
        folder, plan, tokenizer, Disk(), None, PreparationProgress(plan.size), watch
    )


def _read_plan(found: dict[str, Any]) -> Plan:
    """The plan that plan.json was made from; sources are not looked at again."""
    own = dict(found["options"])
    names = ("text_field", "file_format", "documents", "no_header")
    own["text_format"] = {name: own.pop(name) for name in names}
    options = build_typed(PreparationOptions, own, "its options")
    sources = tuple(
        build_typed(SourceFile, {**source, "modified": 1 if source["size"] else 0}, "a source")
        for source in found["sources"]
    )
    groups = group_sources(sources, options.shard_size)
    if type(found["tokenizer"]["vocab_size"]) is not int:
        raise ValueError("the vocabulary has no size")
    return Plan(sources, groups, options, found["tokenizer"])


def _describe_damaged_plan(folder: Path) -> str:
    return (
        f"{folder / PLAN}: not the plan of a preparation; choose another --output, or delete "
        f"{folder}"
    )


def _open_folder(folder: Path, plan: Plan, tokenizer: "Tokenizer", disk: Disk) -> bool:
    """Make the folder or look at what is in it. Returns whether it is whole already."""
    require_local(folder, "tokens")
    text = plan.to_json()
    if (folder / MANIFEST).exists():
        facts, _ = read_manifest(folder)
        own = {key: facts[key] for key in ("tokenizer", "options")}
        own["sources"] = [
            {key: source[key] for key in ("name", "kind", "size")} for source in facts["plan"]
        ]
        before = (json.dumps(own, indent=1) + "\n").encode()
        if before != text:
            raise DataError(describe_difference(before, text, folder, is_whole=True))
        open_prepared(folder)
        return True
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = [entry.name for entry in folder.iterdir()]
        begun = (folder / PLAN).read_bytes() if PLAN in names else None
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {explain_os_error(error)}") from error
    if begun is None:
        if others := [name for name in names if not name.startswith((TEMPORARY, ".lock"))]:
            raise DataError(
                f"{folder} is not empty ({sorted(others)[0]}) and no preparation was begun in it; "
                "choose another --output"
            )
    else:
        _refuse_other_plan(folder, begun, text)
    return False


def _refuse_other_plan(folder: Path, begun: bytes, text: bytes) -> None:
    """Raise DataError where a folder was begun with a plan that cannot become this one."""
    if begun == text:
        return
    try:
        why = "" if is_more_lenient(begun, text) else describe_difference(begun, text, folder)
    except UNREADABLE:
        why = _describe_damaged_plan(folder)
    if why:
        raise DataError(why)


def _require_own_plan(folder: Path, plan: Plan) -> None:
    """Raise DataError where another process has made some of the shards, by another plan."""
    text = plan.to_json()
    try:
        there = (folder / PLAN).read_bytes()
    except FileNotFoundError:
        raise DataError(_describe_finished(folder)) from None
    if there != text:
        raise DataError(describe_difference(there, text, folder))


def _describe_finished(folder: Path) -> str:
    return f"{folder} was prepared by another process meanwhile; run the command again"


def _publish_plan(folder: Path, text: bytes, disk: Disk) -> None:
    """Write the plan, of which several processes that begin at once have the same or are refused.

    The tokenizer's name is synced after it, and so is this one in the same folder.
    """
    if write_unless_there(folder / PLAN, text, disk=disk):
        return
    with suppress(FileNotFoundError):  # the folder has been finished
        begun = (folder / PLAN).read_bytes()
        _refuse_other_plan(folder, begun, text)
        if begun != text:
            write_atomically(folder / PLAN, text, disk=disk, sync_name=False)


def _begin_folder(folder: Path, plan: Plan, tokenizer: "Tokenizer", disk: Disk) -> None:
    """Write what the folder is to hold and by which tokenizer, once, before its first shard."""
    from hermes.tokenizer import build_tokenizer_config
    from hermes.tokenizer.roles import read_roles

    try:
        _publish_plan(folder, plan.to_json(), disk)
    except StorageError:  # whoever finishes a folder deletes what is unfinished in it
        if not (folder / MANIFEST).exists():
            raise
    if (folder / MANIFEST).exists():
        delete_unfinished(folder)
        raise DataError(_describe_finished(folder))
    tokenizer.save(folder / TOKENIZER)
    # tokenizer.json says what begins a text, and not what ends it: a usual name, or a file beside.
    if read_roles({}, tokenizer.find_id, tokenizer.find_name, None).eos != tokenizer.eos_id:
        config = json.dumps(build_tokenizer_config(tokenizer), indent=2, ensure_ascii=False) + "\n"
        write_atomically(folder / TOKENIZER_CONFIG, config.encode(), disk=disk, sync_name=False)


def _prepare_part(
    folder: Path,
    plan: Plan,
    part: Part,
    tokenizer: "Tokenizer",
    workers: int | None,
    disk: Disk,
    watch: Watch,
) -> PrepareResult:
    """Write the shards of a part, and the manifest where it is all. Raises as prepare_tokens."""
    whole_size = plan.size if all(source.is_file for source in plan.sources) else 0
    progress = PreparationProgress(whole_size)
    with ThreadPoolExecutor(1) as beginner, EncodingPool(tokenizer, workers) as pool:
        # The disk is waited for while the first text is read and encoded.
        begun = beginner.submit(_begin_folder, folder, plan, tokenizer, disk)
        for group in range(len(plan.groups)):
            if part.may_have(len(plan.groups), group):
                _prepare_group(
                    folder, plan, group, part, tokenizer, pool, disk, progress, watch, begun.result
                )
        begun.result()
    _require_own_plan(folder, plan)
    if part.count > 1:
        return _describe_part(folder, plan, part)
    return write_manifest(folder, plan, tokenizer, disk, workers, progress, watch)


def _withdraw_plan(folder: Path, plan: Plan) -> None:
    """Delete a plan by which no shard was finished, with what it put into the folder.

    Nothing is lost, and a mistyped name of data would keep the folder for itself.
    """
    from hermes.tokenizer.manifest import name_manifest

    with suppress(OSError):
        if (folder / PLAN).read_bytes() != plan.to_json() or any(folder.glob("[0-9]*-[0-9]*.json")):
            return
        delete_unfinished(folder)
        tokenizer = folder / TOKENIZER
        for path in (tokenizer, name_manifest(tokenizer), folder / TOKENIZER_CONFIG):
            path.unlink(missing_ok=True)
        folder.rmdir()


def _prepare_group(
    folder: Path,
    plan: Plan,
    group: int,
    part: Part,
    tokenizer: "Tokenizer",
    pool: EncodingPool,
    disk: Disk,
    progress: PreparationProgress,
    watch: Watch,
    wait: Callable[[], None],
) -> None:
    """Write the shards of a group that are the part's work and not finished yet.

    wait: until the folder is begun.
    """
    known = read_group(folder, group)
    groups = len(plan.groups)
    finished: dict[int, str] = {}
    for number in _list_numbers(folder, group):
        if (shard := read_shard(folder, name_shard(group, number))) is not None:
            finished[number] = shard.text_sha256
    if known is not None:
        own = [number for number in range(known.shards) if part.has(groups, group, number)]
        if all(number in finished for number in own):
            size = sum(source.size for source in known.sources)
            progress.read += size
            progress.skipped += size
            watch(progress)
            return

    def wants(number: int) -> bool:
        return number not in finished and part.has(groups, group, number)

    before = progress.read

    def add_skipped(read: int, skipped: int) -> None:
        progress.read = max(progress.read, before + read)
        progress.skipped += skipped
        watch(progress)

    def add_tokens(tokens: int, documents: int, read: int) -> None:
        progress.tokens += tokens
        progress.documents += documents
        progress.read = max(progress.read, before + read)
        watch(progress)

    reader = GroupReader(plan, group, tokenizer, wants, finished, add_skipped)
    write_shards(
        folder,
        reader,
        group,
        pool,
        beginning=plan.tokenizer["beginning"],
        eos_id=plan.tokenizer["eos_id"],
        dtype=choose_dtype(plan),
        disk=disk,
        wait=wait,
        on_tokens=add_tokens,
    )
    progress.read = before + reader.size
    watch(progress)
    result = reader.get_result()
    if known is not None and known != result:
        raise DataError(
            f"{folder / name_group(group)}: another part read other data; all parts must see the "
            "same files"
        )
    record = {**vars(result), "sources": [vars(source) for source in result.sources]}
    wait()
    # After a power failure that loses this name the group is read again.
    record_bytes = json.dumps(record).encode()
    write_atomically(folder / name_group(group), record_bytes, disk=disk, sync_name=False)


def _list_numbers(folder: Path, group: int) -> list[int]:
    """The numbers of a group's finished shards."""
    names = (path.stem for path in folder.glob(f"{group:05}-*.json"))
    return sorted(int(name.partition("-")[2]) for name in names)


def _describe_part(folder: Path, plan: Plan, part: Part) -> PrepareResult:
    """What this part came to."""
    own = []
    for group in range(len(plan.groups)):
        for number in _list_numbers(folder, group):
            if part.has(len(plan.groups), group, number):
                shard = read_shard(folder, name_shard(group, number))
                own.append(shard) if shard else None
    tokens, documents, text_bytes = (
        sum(getattr(shard, name) for shard in own) for name in ("tokens", "documents", "text_bytes")
    )
    return PrepareResult(
        folder, False, len(own), tokens, documents, text_bytes, files=len(plan.sources)
    )
