"""hermes generate: what it shows, files of prompts, and going on after a kill."""

import dataclasses
import json
import signal
import subprocess
import sys

import pytest
import torch

import hermes
from hermes.model import Model
from hermes_torch.row_decoder import RowDecoder
from tests.cli.support import HERMES
from tests.finetuning.support import small_checkpoint, small_spec, write_lines
from tests.waiting import wait_until

PROMPTS = [
    {"prompt": "the cat", "id": 7},
    {"prompt": "a", "max_tokens": 3},
    {"prompt": "", "seed": 4},
    *({"prompt": f"the dog ran {'far ' * k}"} for k in range(6)),
    {"prompt": "the man", "temperature": 0, "stop": ["a"]},
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small_checkpoint(tmp_path_factory.mktemp("generate"))


@pytest.fixture
def options(base, tmp_path):
    path = write_lines(tmp_path / "in.jsonl", PROMPTS)
    return ("generate", "-c", base, "--backend", "torch", "--prompts", path, "--max-tokens", 12,
            "--batch-size", 4)  # fmt: skip


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_prompt_has_the_text_that_it_has_alone(base, options, call, tmp_path):
    code, out, err = call(*options, "--output", tmp_path / "out.jsonl")
    assert (code, out) == (0, "")
    assert "10 texts are in" in err
    lines = read_lines(tmp_path / "out.jsonl")
    assert [line["prompt"] for line in lines] == [one["prompt"] for one in PROMPTS]
    assert [line["index"] for line in lines] == list(range(10))
    assert lines[0]["id"] == 7
    model = hermes.load(base, backend="torch")
    for line, record in zip(lines, PROMPTS, strict=True):
        alone = model.complete(
            record["prompt"],
            max_tokens=record.get("max_tokens", 12),
            seed=record.get("seed", 0),
            stop=record.get("stop", ()),
            sampling=model.choose_sampling(record.get("temperature")),
        )
        assert line["text"] == alone.text
        assert line["finish_reason"] == alone.finish_reason


@pytest.mark.parametrize("cut", [0, 1, 40, 400, -1])
def test_a_file_that_was_begun_is_finished_as_if_it_had_not_been(options, call, tmp_path, cut):
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    assert call(*options, "--num-samples", 2, "--output", whole)[0] == 0
    part.write_bytes(whole.read_bytes()[:cut])
    before = part.read_bytes().rpartition(b"\n")[0]
    assert call(*options, "--num-samples", 2, "--output", part)[0] == 0
    assert part.read_bytes() == whole.read_bytes()
    assert part.read_bytes().startswith(before)


def test_a_file_that_is_whole_stays_as_it_is(options, call, tmp_path):
    path = tmp_path / "out.jsonl"
    for _ in range(2):
        assert call(*options, "--output", path)[0] == 0
        assert len(read_lines(path)) == 10


def test_a_file_of_other_texts_is_refused_and_left_alone(options, call, tmp_path):
    path = tmp_path / "out.jsonl"
    call(*options, "--output", path)
    before = path.read_bytes()
    code, _, err = call(*options, "--output", path, "--top-k", 5)
    assert code == 1
    assert "it was made with other options or another model; give another file" in err
    write_lines(tmp_path / "in.jsonl", PROMPTS[1:])
    code, _, err = call(*options, "--output", path)
    assert code == 1
    assert "it has the text of another prompt; give another file" in err
    for place, changed, message in (
        (1, {"max_tokens": 4}, "out.jsonl:2: it was made with other options or another model"),
        (9, {"temperature": 0.5}, "out.jsonl:10: it was made with other options or another model"),
        (0, {"id": 8}, "out.jsonl:1: it has the text of another prompt; give another file"),
    ):
        records = [*PROMPTS]
        records[place] = {**records[place], **changed}
        write_lines(tmp_path / "in.jsonl", records)
        code, _, err = call(*options, "--output", path)
        assert (code, message in err) == (1, True), err
    assert path.read_bytes() == before
    path.write_text("notes\n")
    assert call(*options, "--output", path)[0] == 1
    assert path.read_text() == "notes\n"


def test_a_file_of_an_earlier_version_is_finished(options, call, tmp_path):
    """It names the options of the command alone."""
    path = tmp_path / "out.jsonl"
    call(*options, "--output", path)
    lines = read_lines(path)
    before = "".join(
        json.dumps({**line, "settings": line["settings"].partition("-")[0]}) + "\n"
        for line in lines[:4]
    )
    path.write_text(before, encoding="utf-8")
    assert call(*options, "--output", path)[0] == 0
    assert read_lines(path)[4:] == lines[4:]
    assert path.read_text(encoding="utf-8").startswith(before)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "a"}, 'in.jsonl:1: expected {"prompt": "..."}, found'),
        ({"prompt": "a", "index": 1}, "in.jsonl:1: 'index' is a key of the output"),
        ({"prompt": "a", "temprature": 1}, "'temprature' is no option; write 'temperature', or"),
        ({"prompt": "a", "max-tokens": 1}, "'max-tokens' is no option; write 'max_tokens', or"),
        ({"prompt": "a", "json_schema": {}}, "'json_schema' is the same for all prompts; give it"),
        ({"prompt": "a", "top_k": -1}, "in.jsonl: top_k must be at least 0, got -1"),
        ({"prompt": "a", "stop": 5}, "in.jsonl: stop must be a list, each item a string"),
        ({"prompt": "a", "logit_bias": "x"}, "in.jsonl: --logit-bias needs ID=NUMBER"),
        ({"prompt": "far " * 150}, "in.jsonl: the prompt has"),
        (
            {"prompt": "a", "id": "\ud800"},
            "in.jsonl:1: half of a surrogate pair, \\ud800, which is",
        ),
    ],
)
def test_a_line_that_cannot_be_is_refused_by_its_place(options, call, tmp_path, record, message):
    write_lines(tmp_path / "in.jsonl", [record])
    code, _, err = call(*options, "--output", tmp_path / "out.jsonl")
    assert code == 1
    assert message in err


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"seed": -1}, "seed must be at least 0 and below 2^64, got -1"),
        ({"seed": 2**64 - 1}, f"seed must be at least 0 and below 2^64, got {2**64}"),
        ({"logit_bias": {"999": 1}}, "logit_bias must be of ids below the 300 of the tokens"),
    ],
)
def test_a_late_line_is_refused_before_any_text(options, call, tmp_path, own, message):
    write_lines(tmp_path / "in.jsonl", [{"prompt": "a"}] * 6 + [{"prompt": "a", **own}])
    more = ("--output", tmp_path / "out.jsonl", "--num-samples", 2, "--batch-size", 1)
    code, _, err = call(*options, *more)
    assert code == 1
    assert f"prompt 7 of {tmp_path}/in.jsonl: {message}" in err
    assert not (tmp_path / "out.jsonl").exists()


def test_a_null_is_an_option_that_is_left_out(options, call, tmp_path):
    found = []
    for own in ({}, {"temperature": None, "stop": None, "seed": None, "max_tokens": None}):
        write_lines(tmp_path / "in.jsonl", [{"prompt": "the cat", **own}])
        code, out, err = call(*options, "--temperature", 0.3, "--stop", "q")
        assert code == 0, err
        found.append(out)
    assert found[0] == found[1]


def test_a_file_of_prompts_may_be_no_json_or_begin_with_a_mark(options, call, tmp_path):
    (tmp_path / "in.jsonl").write_text("[" * 100_000)
    code, _, err = call(*options, "--output", tmp_path / "out.jsonl")
    assert (code, 'in.jsonl:1: expected {"prompt": "..."}, found' in err) == (1, True)
    (tmp_path / "in.jsonl").write_text('{"prompt": "the cat"}\n', encoding="utf-8-sig")
    assert call(*options, "--output", tmp_path / "out.jsonl")[0] == 0
    assert read_lines(tmp_path / "out.jsonl")[0]["prompt"] == "the cat"


def test_one_string_is_a_list_of_one(options, call, tmp_path):
    """As OpenAI's API takes "stop"; of the other lists of strings, too."""

    def write(**given):
        write_lines(tmp_path / "in.jsonl", [{"prompt": "the cat", **given}])
        code, out, err = call(*options)
        assert code == 0, err
        return json.loads(out)["text"]

    free = write()
    assert write(stop=free[4:6]) == write(stop=[free[4:6]]) == free[: free.index(free[4:6])]
    assert write(ban=free[4:6]) == write(ban=[free[4:6]])
    assert write(logit_bias="5=100", temperature=0) == write(logit_bias={"5": 100}, temperature=0)
    assert write(dry_breaker="a", dry_multiplier=5) == write(dry_breaker=["a"], dry_multiplier=5)


def test_options_that_would_do_nothing_are_refused(base, options, call, tmp_path):
    plain = ("generate", "-c", base, "-p", "a")
    assert "--logprobs are shown with --json" in call(*plain, "--logprobs", 1)[2]
    assert "--output is the file for" in call(*plain, "--output", tmp_path / "x")[2]
    assert "--prompt and --prompts are both given" in call(*options, "-p", "a")[2]
    assert "--echo goes with --prompt" in call(*options, "--echo")[2]
    assert "--batch-invariant goes with --prompts" in call(*plain, "--batch-invariant")[2]
    assert "--batch-size must be at least 1, got 0" in call(*options, "--batch-size", 0)[2]
    serve = ("serve", "-c", base, "--batch-invariant", "--prompt-cache", tmp_path / "d")
    assert "which --batch-invariant rules out" in call(*serve)[2]


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_batch_invariant_text_does_not_depend_on_the_file(options, call, tmp_path, backend):
    def write(name, prompts):
        write_lines(tmp_path / "in.jsonl", prompts)
        path = tmp_path / name
        how = ("--batch-invariant", "--precision", "bfloat16", "--backend", backend)
        code, _, err = call(*options, *how, "--logprobs", 1, "--output", path)
        assert code == 0, err
        return path.read_text().splitlines()

    assert write("all.jsonl", PROMPTS)[:1] == write("one.jsonl", PROMPTS[:1])[:1]


def test_without_an_output_the_texts_are_lines_of_json(options, call, base, tmp_path):
    code, out, _ = call(*options, "--logprobs", 1)
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert all(len(line["logprobs"]) == line["tokens"] for line in lines)
    texts = hermes.generate(
        base, prompts=tmp_path / "in.jsonl", max_tokens=12, batch_size=3, backend="torch"
    )
    assert [line["text"] for line in lines] == [str(text) for text in texts]


def test_more_texts_at_once_than_a_server_lets_wait_are_generated(base, tmp_path):
    path = write_lines(tmp_path / "many.jsonl", [{"prompt": "a"}] * 1100)
    texts = hermes.generate(base, prompts=path, max_tokens=1, batch_size=300, backend="torch")
    assert len(texts) == 1100
    assert len({str(text) for text in texts}) == 1


def test_a_file_whose_texts_take_too_much_memory_ends_with_the_exit_code_of_that(
    options, call, monkeypatch
):
    def fail(self, *_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(RowDecoder, "advance", fail)
    code, _, err = call(*options)
    assert code == 71
    assert "Error: out of memory while running small on cpu (CUDA out of memory. Tried" in err
    assert err.endswith("; choose a smaller --batch-size or fewer --max-tokens\n")


def test_stop_strings_and_scores_at_the_prompt(base, call):
    options = ("generate", "-c", base, "--backend", "torch", "-p", "the cat", "--json")
    _, out, _ = call(*options, "--max-tokens", 0, "--echo", "--logprobs", 0)
    scored = json.loads(out)
    assert scored["text"] == "the cat"
    assert [one["text"] for one in scored["logprobs"]] == ["the", " cat"]
    _, out, _ = call(*options, "--max-tokens", 30, "--temperature", 1.5)
    stop = json.loads(out)["text"][4:6]
    _, out, _ = call(*options, "--max-tokens", 30, "--temperature", 1.5, "--stop", stop)
    assert json.loads(out)["stop"] == stop


def test_beams_are_texts_of_the_library_and_take_no_sampling(base, call):
    options = ("generate", "-c", base, "--backend", "torch", "-p", "the", "--max-tokens", 6)
    code, out, _ = call(*options, "--num-beams", 3, "--num-samples", 2, "--json")
    assert code == 0
    found = hermes.load(base, backend="torch").search("the", num_beams=3, max_tokens=6)
    assert [json.loads(line) for line in out.splitlines()] == [t.to_json() for t in found[:2]]
    _, plain, _ = call(*options, "--num-beams", 3)
    assert plain == found[0].text + "\n"
    for more, message in [
        (("--temperature", 0), "--temperature is not for --num-beams; leave it out"),
        (("--stop", "a"), "--stop is not for --num-beams; leave it out"),
        (("--seed", 1), "--seed is not for --num-beams; leave it out"),
        (("--context-overflow", "slide"), "--context-overflow slide is not for --num-beams"),
        (("--num-samples", 4), "--num-samples is 4, more than --num-beams, 3, finds"),
    ]:
        code, _, err = call(*options, "--num-beams", 3, *more)
        assert code == 1
        assert message in err
    assert "--num-beams must be at least 1, got 0" in call(*options, "--num-beams", 0)[2]


def test_a_beam_search_names_the_penalties_that_it_leaves_out(base):
    model = hermes.load(base, backend="torch")
    asking = {"repetition_penalty": 1.2, "temperature": 0.5}
    own = Model(model.backend_model, lambda: model.tokenizer, generation_config=asking)
    with pytest.warns(UserWarning, match="asks for penalties, which a beam search does not apply"):
        own.search("the", num_beams=2, max_tokens=2)


@pytest.mark.long
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_command_that_is_killed_writes_what_an_unbroken_one_does(base, tmp_path, backend):
    own = ({}, {"temperature": 0}, {"top_k": 5, "min_tokens": 40}, {"stop": "e", "seed": 3})
    records = [
        {"prompt": "the dog ran far"[: 4 + k % 9], "id": k, **own[k % len(own)]} for k in range(200)
    ]
    path = write_lines(tmp_path / "in.jsonl", records)
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"

    def make_line(output):
        words = [HERMES, "generate", "-c", base, "--prompts", path, "--output", output,
                 "--max-tokens", 60, "--backend", backend, "--batch-size", 4, "--logprobs", 1,
                 "--num-samples", 2]  # fmt: skip
        return [str(word) for word in words]

    for lines in (3, 150):
        process = subprocess.Popen(make_line(out), stderr=subprocess.DEVNULL)
        wait_until(
            lambda n=lines: out.exists() and out.read_bytes().count(b"\n") >= n, process=process
        )
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = out.read_bytes().rpartition(b"\n")[0]
        assert lines <= kept.count(b"\n") + 1 < 400
    subprocess.run(make_line(out), check=True, stdout=sys.stderr)
    assert out.read_bytes().startswith(kept)
    subprocess.run(make_line(whole), check=True, stdout=sys.stderr)
    again, unbroken = read_lines(out), read_lines(whole)
    assert len(unbroken) == 400
    for one, other in zip(again, unbroken, strict=True):
        found, expected = one.pop("logprobs"), other.pop("logprobs")
        assert one == other
        for a, b in zip(found, expected, strict=True):  # the batches were others
            assert (a["id"], a["text"]) == (b["id"], b["text"])
            assert a["logprob"] == pytest.approx(b["logprob"], abs=1e-5)


@pytest.mark.parametrize(
    "words", [(), ("--echo",), ("--echo", "--max-tokens", 0), ("--temperature", 0), ("file",)]
)
def test_backends_give_the_same_tokens_and_log_probabilities(base, options, call, words):
    """Field by field, also of a file's texts that share a batch, to float32's rounding."""

    def write(backend):
        plain = ("generate", "-c", base, "-p", "the cat", "--max-tokens", 9, "--json", *words)
        given = (*options, "--seed", 3) if words == ("file",) else plain
        code, out, err = call(*given, "--backend", backend, "--precision", "float32", *most)
        assert code == 0, err
        return [json.loads(line) for line in out.splitlines()]

    most = ("--logprobs", 4)
    for ours, theirs in zip(write("torch"), write("mlx"), strict=True):
        numbers = [], []
        for one, found in zip((ours, theirs), numbers, strict=True):
            assert one["logprobs"]
            for token in one["logprobs"]:
                # Nearly equal logits may come in another order, and have their own tokens.
                found += [token.pop("logprob"), *[row[2] for row in token["top"]]]
                token["top"] = sorted(row[:2] for row in token["top"])
        assert ours == theirs
        pairs = list(zip(*numbers, strict=True))
        assert all((a is None) == (b is None) for a, b in pairs)
        assert max(abs(a - b) for a, b in pairs if a is not None) < 1e-4


SAID = {"torch": "can't allocate memory: you tried to allocate", "mlx": "(MLX needs 1"}


@pytest.mark.parametrize(
    ("backend", "limit"), [("torch", "-d 4000000"), ("mlx", "-v 8000000"), ("mlx", "-d 4000000")]
)
def test_a_limit_of_memory_that_is_in_the_way_is_said_in_a_sentence(tmp_path, backend, limit):
    """MLX ended by SIGSEGV without a word: it writes to memory that it was not given."""
    spec = dataclasses.replace(small_spec(), max_seq_len=200_000)
    checkpoint = small_checkpoint(tmp_path, spec=spec)
    prompts = write_lines(tmp_path / "in.jsonl", [{"prompt": "the cat"}] * 64)
    words = ["generate", "-c", checkpoint, "--prompts", prompts, "--backend", backend]
    words += ["--device", "cpu", "--max-tokens", "190000", "--batch-size", "64"]
    command = f'ulimit {limit}; exec "$@"'  # the cache alone takes 6.2 GB
    ran = subprocess.run(
        ["bash", "-c", command, "bash", HERMES, *map(str, words)], capture_output=True, text=True
    )
    assert ran.returncode == 71, (ran.returncode, ran.stderr)
    told = ran.stderr.splitlines()[-1]
    assert told.startswith("Error: out of memory while running small on cpu (")
    assert SAID[backend] in told
    if backend == "mlx":
        assert f"ulimit {limit[:2]} leaves" in told
    assert told.endswith("choose a smaller --batch-size or fewer --max-tokens")
