"""Which steps read a document, and which documents a step read: exactly what a run really reads."""

import dataclasses
import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hermes
from hermes.data.prepared import PreparationOptions, prepare_tokens
from hermes.data.run_data import DataRecord, RunData, SessionRecord, SourceRecord
from hermes.errors import DataError, HermesError
from tests.data.recorded import LITTLE, list_rows, record_batches, record_validation
from tests.data.synthetic_index import NO_HASH, write_synthetic_index
from tests.distributed.support import WAIT, free_ports

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "ran", "off", "to", "see"]
COMMON = {"model": LITTLE, "seq_len": 16, "batch_size": 3, "backend": "torch", "device": "cpu",
          "log_every": 1}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two files of documents of 0 to 60 words, and a tokenizer."""
    folder, draw = tmp_path_factory.mktemp("corpus"), random.Random(0)
    for name in ("web", "code"):
        documents = [" ".join(draw.choices(WORDS, k=draw.randint(0, 60))) for _ in range(20)]
        documents[4] = ""
        text = "".join(json.dumps({"text": one}) + "\n" for one in documents)
        (folder / f"{name}.jsonl").write_text(text)
    hermes.train_tokenizer([folder / "web.jsonl"], vocab_size=300).save(folder / "tokenizer.json")
    return folder


def read_documents(corpus, *names):
    """Every document that has text, by place, as the tokens that it must have."""
    tokenizer = hermes.Tokenizer.load(corpus / "tokenizer.json")
    found = {}
    for name in names:
        for line, record in enumerate((corpus / name).read_text().splitlines(), 1):
            if text := json.loads(record)["text"]:
                ids = [*tokenizer.encode(text), tokenizer.eos_id]
                found[f"{corpus / name}:{line}"] = ids
    return found


def require_exact(run, documents, batches, first=1):
    """The traces of a run are what its batches had: by step, by rank, (tokens, targets)."""
    readings = {place: set() for place in documents}
    for step, ranks in enumerate(batches, first):
        samples = hermes.trace_step(run, step)
        seen = 0
        for sample in samples:
            tokens, targets = ranks[sample.rank]
            row = (sample.micro_batch, sample.row % tokens.shape[1])
            (real,) = list_rows(tokens[row], targets[row])
            parts = [documents[one.where][one.first : one.last] for one in sample.parts]
            assert [token for part in parts for token in part] == real, (step, sample.row)
            seen += len(real) - 1
            for one in sample.parts:
                assert one.tokens == len(documents[one.where])
                readings[one.where].add((step, sample.row, one.first, one.last, sample.epoch))
        assert seen == sum(int((targets >= 0).sum()) for _, targets in ranks)
    for place, expected in readings.items():
        (found,) = hermes.trace_document(run, place)
        own = [(r.step, r.row, r.first, r.last, r.epoch) for r in found.readings]
        assert len(own) == len(set(own))
        assert {one for one in own if one[0] >= first} == expected, place
    assert any(len(one) > 1 for one in readings.values())


def train(corpus, output, **options):
    with record_batches() as batches:
        options = {"data": corpus / "web.jsonl", **COMMON, **options}
        hermes.train(output=output, tokenizer=corpus / "tokenizer.json", **options)
    return [[batch] for batch in batches]


CASES = {
    "epochs": ({"epochs": 2.5, "val_fraction": 0.1}, ("web.jsonl",)),
    "steps": ({"max_steps": 30, "grad_accum": 2}, ("web.jsonl",)),
    "validation": ({"epochs": 1.5, "val_data": "code.jsonl"}, ("web.jsonl",)),
    "files": ({"data": ["web.jsonl", "code.jsonl"], "epochs": 1}, ("web.jsonl", "code.jsonl")),
    "mixture": (
        {"data": ["web.jsonl:0.8", "code.jsonl:0.2"], "max_steps": 40, "val_fraction": 0.1},
        ("web.jsonl", "code.jsonl"),
    ),
    "cache": ({"cache_dir": "cache", "epochs": 1}, ("web.jsonl",)),
    "weights that change": (
        {
            "data": ["web.jsonl:0.8,0.3@7,1@30", "code.jsonl:0.2,0.7@7,0@30"],
            "max_steps": 40,
            "val_fraction": 0.1,
        },
        ("web.jsonl", "code.jsonl"),
    ),
    "held-out documents": (
        {"epochs": 1.5, "val_fraction": 0.2, "hold_out": "documents"},
        ("web.jsonl",),
    ),
    "held-out documents of a mixture": (
        {
            "data": ["web.jsonl:0.8", "code.jsonl:0.2"],
            "max_steps": 20,
            "val_fraction": 0.2,
            "hold_out": "documents",
        },
        ("web.jsonl", "code.jsonl"),
    ),
    "documents": (
        {"epochs": 2.5, "pack": False, "seq_len": 64, "val_fraction": 0.1},
        ("web.jsonl",),
    ),
    "documents that are cut": (
        {"epochs": 1.5, "pack": False, "overlong": "truncate", "val_data": "code.jsonl"},
        ("web.jsonl",),
    ),
    "documents that are left out": (
        {"max_steps": 12, "pack": False, "overlong": "drop", "seq_len": 40, "val_fraction": 0.2},
        ("web.jsonl",),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_traces_are_what_a_run_read(corpus, tmp_path, monkeypatch, case):
    monkeypatch.chdir(corpus)
    options, names = CASES[case]
    batches = train(corpus, tmp_path / "run", seed=3, **options)
    assert len(batches) > 9
    require_exact(tmp_path / "run", read_documents(corpus, *names), batches)


HELD_OUT = [case for case, (options, _) in CASES.items() if "val_fraction" in options]


@pytest.mark.parametrize("case", HELD_OUT)
def test_what_is_held_out_is_what_the_validation_reads_and_no_step(
    corpus, tmp_path, monkeypatch, case
):
    monkeypatch.chdir(corpus)
    options, names = CASES[case]
    run, documents = tmp_path / "run", read_documents(corpus, *names)
    with record_validation() as rows:
        own = {name: value for name, value in options.items() if name != "epochs"}
        train(corpus, run, **own | {"max_steps": 1})
    traces = {place: hermes.trace_document(run, place)[0] for place in documents}
    held_out = {place: one.held_out for place, one in traces.items() if one.held_out}
    assert held_out
    if options.get("pack", True):
        # The windows of a source follow each other, each with the last token of the one before.
        sources = {place.partition(":")[0] for place in held_out}
        assert sum(held_out.values()) == sum(len(row) - 1 for row in rows) + len(sources)
    else:
        width = options["seq_len"] + 1
        assert sorted(rows) == sorted(documents[place][:width] for place in held_out)
        assert held_out == {place: min(len(documents[place]), width) for place in held_out}
    if "hold_out" in options or "pack" in options:
        assert not any(one.readings and one.held_out for one in traces.values())
    for one in traces.values():
        assert not (one.absent and (one.readings or one.held_out))
    unread = {place for place, one in traces.items() if one.absent}
    if not options.get("pack", True):
        room = options["seq_len"] + 1
        assert unread == {place for place, ids in documents.items() if not 2 <= len(ids) <= room}


def test_why_a_document_is_in_no_step_is_told(corpus, tmp_path, write):
    text = write("few.jsonl", "".join(f'"{"a cat " * n}"\n' for n in (1, 9, 1, 1, 20, 1)))
    given = {"data": text, "max_steps": 1, "pack": False, "overlong": "drop"}
    train(corpus, tmp_path / "run", **given)
    (long,) = hermes.trace_document(tmp_path / "run", f"{text}:5")
    assert (long.steps, long.held_out) == ((), 0)
    assert long.absent == "--overlong drop leaves out what is longer than 16 targets"
    (short,) = hermes.trace_document(tmp_path / "run", f"{text}:1")
    assert short.absent == ""
    train(corpus, tmp_path / "packed", data=text, max_steps=1, seq_len=30)
    (last,) = hermes.trace_document(tmp_path / "packed", f"{text}:6")
    assert last.absent == "it is behind the last whole sequence"


def test_prepared_shards_and_token_files_are_traced_alike(corpus, tmp_path):
    tokenizer = hermes.Tokenizer.load(corpus / "tokenizer.json")
    options = PreparationOptions(shard_size=700)
    prepare_tokens(corpus / "web.jsonl", tokenizer, tmp_path / "tokens", options=options)
    shards = sorted((tmp_path / "tokens").glob("*.bin"))
    assert len(shards) > 3
    documents = read_documents(corpus, "web.jsonl")
    batches = train(corpus, tmp_path / "run", data=tmp_path / "tokens", epochs=1)
    require_exact(tmp_path / "run", documents, batches)
    # Two token files, of which the second begins inside a document.
    ids = np.concatenate([np.fromfile(path, "<u2") for path in shards])
    cut = len(ids) // 2
    for name, part in (("a.bin", ids[:cut]), ("b.bin", ids[cut:])):
        (tmp_path / name).write_bytes(part.tobytes())
    data = [tmp_path / "a.bin", tmp_path / "b.bin"]
    again = train(corpus, tmp_path / "other", data=data, epochs=1)
    assert all((a[0][0] == b[0][0]).all() for a, b in zip(batches, again, strict=True))
    own = list(documents.values())
    split = next(n for n in range(len(own)) if sum(map(len, own[: n + 1])) > cut) + 1
    places = [f"{tmp_path / 'a.bin'}:{n + 1}" for n in range(split)]
    places += [f"{tmp_path / 'b.bin'}:{n + 1}" for n in range(len(own) - split)]
    require_exact(tmp_path / "other", dict(zip(places, own, strict=True)), again)


def test_a_resumed_run_with_other_batches_and_other_data_is_traced(corpus, tmp_path):
    run, documents = tmp_path / "run", read_documents(corpus, "web.jsonl", "code.jsonl")
    batches = train(corpus, run, max_steps=30, save_every=10)
    (run / "step-00000030").rename(tmp_path / "away")  # killed after step 20
    batches = batches[:20] + train(
        corpus, run, max_steps=40, resume=True, batch_size=2, grad_accum=3, allow_batch_change=True
    )
    batches += train(
        corpus, run, data=[corpus / "web.jsonl", corpus / "code.jsonl"], max_steps=60,
        resume=True, batch_size=2, grad_accum=3, allow_data_change=True,
    )  # fmt: skip
    assert len(batches) == 60
    require_exact(run, documents, batches)


@pytest.fixture(scope="module")
def two_ranks(corpus, tmp_path_factory):
    """A run of two processes, resumed by one."""
    folder = tmp_path_factory.mktemp("ranks")
    call = {**COMMON, "data": str(corpus / "web.jsonl"), "output": str(folder / "run"),
            "tokenizer": str(corpus / "tokenizer.json"), "grad_accum": 2,
            "max_steps": 12}  # fmt: skip
    port = str(free_ports(1)[0])
    started = []
    for rank in range(2):
        own = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
               "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
               "MASTER_PORT": port}  # fmt: skip
        worker = Path(__file__).with_name("trace_worker.py")
        command = [sys.executable, str(worker), str(folder / f"{rank}.npz"), json.dumps(call)]
        paths = os.pathsep.join([str(worker.parents[2]), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **own}
        started.append(
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        )
    try:
        for process in started:
            _, errors = process.communicate(timeout=WAIT)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in started:
            process.kill()
            process.wait()
    files = [np.load(folder / f"{rank}.npz") for rank in range(2)]
    return folder / "run", [
        [(file[f"arr_{2 * n}"], file[f"arr_{2 * n + 1}"]) for file in files] for n in range(12)
    ]


@pytest.mark.long
def test_the_rows_of_several_ranks_are_traced(corpus, two_ranks):
    run, batches = two_ranks
    batches = batches + train(corpus, run, max_steps=30, resume=True, grad_accum=4)
    require_exact(run, read_documents(corpus, "web.jsonl"), batches)
    assert {sample.rank for sample in hermes.trace_step(run, 12)} == {0, 1}
    assert {sample.rank for sample in hermes.trace_step(run, 13)} == {0}


def test_steps_to_come_are_told(corpus, tmp_path):
    run = tmp_path / "run"
    train(corpus, run, max_steps=10, save_every=5, stop=stop_after(5))
    documents = read_documents(corpus, "web.jsonl")
    traces = [hermes.trace_document(run, place)[0] for place in documents]
    assert {one.steps_done for one in traces} == {5}
    assert {step for one in traces for step in one.steps} == set(range(1, 11))
    batches = train(corpus, run, max_steps=10, resume=True)
    require_exact(run, documents, batches, first=6)


def stop_after(count):
    calls = iter(range(count - 1))
    return lambda: next(calls, None) is None


def test_the_sequences_of_a_step_are_shown(corpus, tmp_path, write):
    tokenizer = hermes.Tokenizer.load(corpus / "tokenizer.json")
    run = tmp_path / "run"
    batches = train(corpus, run, max_steps=3)
    shown = hermes.show_step(run, 2)
    assert [one.text for one in shown] == [
        tokenizer.decode([*tokens, targets[-1]], skip_special=False)
        for tokens, targets in zip(*(part[0] for part in batches[1][0]), strict=True)
    ]
    prepare_tokens(corpus / "web.jsonl", tokenizer, tmp_path / "tokens")
    planned = hermes.show_step(tmp_path / "tokens", 2, seq_len=16, batch_size=3)
    assert [one.text for one in planned] == [one.text for one in shown]
    with pytest.raises(HermesError, match=r"^seq_len is the run's own; leave it out$"):
        hermes.show_step(run, 2, seq_len=8)
    text = write("web.jsonl", '"a cat"\n' * 99)
    train(corpus, tmp_path / "changed", data=text, max_steps=1)
    write("web.jsonl", '"a mat"\n' * 99)
    with pytest.raises(DataError, match="the data has changed since"):
        hermes.show_step(tmp_path / "changed", 1)


def test_what_cannot_be_traced_is_refused_by_name(corpus, tmp_path, write):
    run = tmp_path / "run"
    train(corpus, run, max_steps=3)
    for place, message in (
        ("web.json:1", r"web\.json is not in the data.*web\.jsonl"),
        ("web.jsonl:21", r"web\.jsonl:21 is no document: .*; the one before it is .*:20"),
        ("web.jsonl:5", "is no document: it is empty, or was left out"),
    ):
        with pytest.raises(DataError, match=message):
            hermes.trace_document(run, place)
    with pytest.raises(DataError, match="has steps 1 to 3; there is no 4"):
        hermes.trace_step(run, 4)
    with pytest.raises(DataError, match="is the folder of a tokenizer; name a run of "):
        hermes.trace_step(corpus, 1)
    with pytest.raises(DataError, match="nowhere: no such folder; name a run of "):
        hermes.trace_step(corpus / "nowhere", 1)
    (run / "data.json").write_text("{}")
    with pytest.raises(DataError, match=r"data\.json: not the data of a run"):
        hermes.trace_step(run, 1)


def test_of_a_mixture_the_source_that_has_the_name_answers(corpus, tmp_path):
    data = [f"web={corpus}/web.jsonl:0.5", f"code={corpus}/code.jsonl:0.5"]
    train(corpus, tmp_path / "run", data=data, max_steps=1)
    for place, message in (
        ("code.jsonl:21", r"^code\.jsonl:21 is no document: .*; the one before it is .*:20$"),
        ("x:1", r"^x is not in the data; the data has .*/web\.jsonl, .*/code\.jsonl$"),
    ):
        with pytest.raises(DataError, match=message):
            hermes.trace_document(tmp_path / "run", place)


def test_what_is_no_longer_traced_ends_the_record(corpus, tmp_path):
    run = tmp_path / "run"
    train(corpus, run, max_steps=5)
    ended = RunData.read(run).end_at(3)
    ended.write(run)
    assert RunData.read(run) == ended
    assert len(hermes.trace_step(run, 3)) == 3
    with pytest.raises(DataError, match="has steps 1 to 3; there is no 4"):
        hermes.trace_step(run, 4)
    for one in read_documents(corpus, "web.jsonl"):
        assert all(step <= 3 for step in hermes.trace_document(run, one)[0].steps)


def test_a_damaged_record_does_not_keep_a_run_from_resuming(corpus, tmp_path):
    run = tmp_path / "run"
    train(corpus, run, max_steps=5)
    (run / "data.json").write_text("{}")
    with pytest.warns(UserWarning, match="a new one begins, without the steps so far"):
        batches = train(corpus, run, max_steps=15, resume=True)
    require_exact(run, read_documents(corpus, "web.jsonl"), batches, first=6)
    with pytest.raises(DataError, match=r"in its data\.json, which begins after step 5"):
        hermes.trace_step(run, 3)


def trace_synthetic(folder, documents, overlong):
    """Ask a run of so many documents for a document and a step. -> seconds of the processor, twice.

    By the command, Python's start included; of ten million documents the index has 200 MB.
    """
    write_synthetic_index(folder / "tokens", documents, shards=50)
    run = folder / "run"
    run.mkdir()
    tokens = documents * 300
    source = SourceRecord(("a",), NO_HASH, tokens, documents, tokens // 1024 - 100, 100,
                          index=str(folder / "tokens"))  # fmt: skip
    if overlong:
        source = dataclasses.replace(source, train=documents - 100, held_out=100)
    record = DataRecord(NO_HASH, 1024, 0, (source,), overlong=overlong)
    RunData((record,), (SessionRecord(0, 0, 64, 8, 1, documents // 500),)).write(run)
    document, step = f"a.jsonl:{documents * 3 // 4}", str(documents // 1000 - 1)
    taken = []
    for question in (("--document", document), ("--step", step)):
        started = [sys.executable, "-m", "hermes", "data", "trace", *question, str(run)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(started, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        assert "a.jsonl:" in done.stdout
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return taken


@pytest.mark.long
@pytest.mark.parametrize("overlong", ["", "error", "drop"])
def test_ten_million_documents_are_traced_as_soon_as_a_few(tmp_path, overlong):
    """Both take little more than Python's start, on whatever machine: a second here."""
    (tmp_path / "few").mkdir()
    few = trace_synthetic(tmp_path / "few", 50_000, overlong)
    many = trace_synthetic(tmp_path, 10_000_000, overlong)
    assert max(many) < 3 * max(few)


def test_an_index_that_is_made_up_is_traced(tmp_path):
    assert len(trace_synthetic(tmp_path, 50_000, "")) == 2
