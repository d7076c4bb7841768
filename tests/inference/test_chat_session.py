"""Talking with a model: answers, commands, files, and what no longer fits."""

import json
import shutil
import warnings
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from hermes.errors import DataError, HermesError, StorageError
from hermes.finetuning.base_model import open_base_model
from hermes.inference.chat_session import ChatSession
from hermes.inference.sampling import Sampling
from hermes.interface import Options, find_backend
from hermes_cli.commands.chat import _answer, _read_message, chat, run_command
from hermes_cli.display.model_menu import choose_model, find_models
from hermes_cli.display.text_stream import stream_text
from hermes_cli.launch.signals import Signals
from tests.finetuning.support import small_checkpoint

BACKENDS = ["torch", "mlx"]
HOSTILE = "a\x1b[2J\x07\r\n\tb\x9b\x7f"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small_checkpoint(tmp_path_factory.mktemp("chat"))


def talk_with(base, backend="torch", **settings):
    start = open_base_model(base)
    model = find_backend(backend).build(start.spec, start.params, Options(device="cpu"))
    return ChatSession(model, start.encoder, **{"max_tokens": 6, **settings})


def said(talk, text):
    return "".join(talk.say(text))


def test_an_answer_is_remembered_and_the_next_one_reads_it(base):
    talk = talk_with(base)
    first = said(talk, "the cat")
    second = said(talk, "the dog")
    assert [m["content"] for m in talk.messages] == ["the cat", first, "the dog", second]
    again = talk_with(base)
    again.messages = [
        {"role": "user", "content": "the cat"},
        {"role": "assistant", "content": first + "!"},
    ]
    assert said(again, "the dog") != second


def test_answers_are_the_same_on_every_backend_and_by_the_seed(base):
    found = [said(talk_with(base, backend, max_tokens=20), "the cat") for backend in BACKENDS]
    assert found[0] == found[1]
    assert said(talk_with(base, max_tokens=20, seed=1), "the cat") != found[0]
    greedy = talk_with(base, sampling=Sampling(temperature=0.0))
    assert said(greedy, "a") == said(talk_with(base, sampling=Sampling(temperature=0.0)), "a")


def test_an_answer_ends_before_a_stop_string_and_at_a_stop_id(base):
    whole = said(talk_with(base, max_tokens=20), "the cat")
    stop = whole[4:7]
    talk = talk_with(base, max_tokens=20, stop=(stop,))
    answer = said(talk, "the cat")
    assert answer == whole[: whole.find(stop)]
    assert talk.messages[1]["content"] == answer
    ids = talk_with(base, max_tokens=20, stop_ids=tuple(range(300)))
    assert said(ids, "the cat") == ""


def test_the_system_prompt_comes_first(base):
    talk = talk_with(base, system="be brief")
    prompt, _ = talk._fit_prompt([{"role": "user", "content": "q"}])
    text = talk.encoder.tokenizer.decode(prompt, skip_special=False)
    assert text == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nq<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_oldest_turns_are_left_out_when_they_no_longer_fit(base):
    talk = talk_with(base)
    for _ in range(6):
        said(talk, "the cat sat on the mat and the dog ran far away")
    assert talk.num_dropped > 0
    assert talk.num_dropped % 2 == 0
    assert len(talk.messages) == 12
    with pytest.raises(HermesError, match=r"^the message has \d+ tokens with its template, more"):
        talk.say("x" * 500)
    assert len(talk.messages) == 12


def test_a_conversation_is_saved_as_a_record_and_read_again(base, tmp_path):
    talk = talk_with(base, system="be brief")
    said(talk, "the cat")
    talk.messages[1]["content"] = ""  # a model may well say nothing
    talk.save(tmp_path / "a.json")
    record = json.loads((tmp_path / "a.json").read_text())
    assert [m["role"] for m in record["messages"]] == ["system", "user", "assistant"]
    other = talk_with(base)
    other.load(tmp_path / "a.json")
    assert (other.system, other.messages) == ("be brief", talk.messages)


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", '{"messages": [{"role": "user", "content": "a"}]}', '{"messages": [3]}',
     '{"messages": 3}', '{"messages": true}', '{"messages": {"role": "user"}}',
     '{"messages": [{"role": "system", "content": null}]}'],
)  # fmt: skip
def test_what_is_no_conversation_is_not_read(base, tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    talk = talk_with(base)
    with pytest.raises(
        DataError, match="not a conversation of alternating user and assistant messages"
    ):
        talk.load(tmp_path / "a.json")
    with pytest.raises(StorageError, match="cannot read"):
        talk.load(tmp_path / "b.json")
    assert talk.messages == []


@pytest.mark.parametrize("data", [b"[" * 100_000, b"\xff", b'{"messages": ' + b"1" * 5000])
def test_what_is_no_json_is_not_read(base, tmp_path, data):
    (tmp_path / "a.json").write_bytes(data)
    talk = talk_with(base)
    with pytest.raises(DataError, match=r"a\.json: not a conversation: ") as refused:
        talk.load(tmp_path / "a.json")
    assert len(str(refused.value)) < len(str(tmp_path)) + 150
    assert talk.messages == []


def test_commands_change_what_they_say(base, tmp_path):
    talk = talk_with(base)
    assert run_command(talk, "/set temperature=0.5") == "temperature=0.5"
    assert run_command(talk, "/set max_tokens = 3") == "max_tokens=3"
    assert talk.sampling == Sampling(0.5)
    both = "temperature=0.0  max_tokens=4"
    assert run_command(talk, "/set temperature=0 max_tokens = 4") == both
    assert (talk.sampling, talk.max_tokens) == (Sampling(0.0), 4)
    with pytest.raises(HermesError, match=r"^max_tokens must be at least 1, got 0$"):
        run_command(talk, "/set temperature=1 max_tokens=0")
    assert (talk.sampling, talk.max_tokens) == (Sampling(0.0), 4)  # all or none
    run_command(talk, "/set temperature=0.5 max_tokens=3")
    assert run_command(talk, "/set") == (
        "temperature=0.5  top_k=0  top_p=1.0  min_p=0.0  max_tokens=3  seed=0"
    )
    run_command(talk, "/set repetition_penalty=1.5 no_repeat_ngram=3")
    assert run_command(talk, "/set").endswith("seed=0  repetition_penalty=1.5  no_repeat_ngram=3")
    run_command(talk, "/set repetition_penalty=1 no_repeat_ngram=0")
    assert run_command(talk, "/system") == "there is no system prompt"
    run_command(talk, "/system be brief")
    assert talk.system == "be brief"
    said(talk, "the cat")
    assert run_command(talk, f"/save {tmp_path}/a") == f"2 messages are saved in {tmp_path}/a"
    before = (tmp_path / "a").read_text()
    run_command(talk, "/reset")
    assert (talk.messages, talk.system) == ([], "be brief")
    with pytest.raises(StorageError, match=r"a exists; choose another name, or /save! to write"):
        run_command(talk, f"/save {tmp_path}/a")
    assert (tmp_path / "a").read_text() == before
    assert run_command(talk, f"/save! {tmp_path}/a") == f"0 messages are saved in {tmp_path}/a"
    (tmp_path / "a").write_text(before)
    assert run_command(talk, f"/load {tmp_path}/a") == f"2 messages are read from {tmp_path}/a"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/rest", "no such command '/rest'; did you mean '/reset'?"),
        ("/x", "no such command '/x'; try /help"),
        ("/save", "/save needs the name of a file"),
        ("/set top_k=x", "top_k needs a whole number, got 'x'"),
        ("/set top_p=2", "top_p must be above 0 and at most 1, got 2.0"),
        ("/quit now", "/quit takes no argument, got 'now'"),
        ("/retry  hotter", "/retry takes no argument, got 'hotter'"),
        ("/undo 2", "/undo takes no argument, got '2'"),
        ("/set seed=-5", "seed must be at least 0 and below 2^64, got -5"),
        ("/set max_tokens=0", "max_tokens must be at least 1, got 0"),
        (
            "/set heat=1",
            "there is no setting 'heat'; known are temperature, top_k, top_p, min_p, max_tokens, "
            "seed, typical_p, repetition_penalty, presence_penalty, frequency_penalty, "
            "xtc_probability, xtc_threshold, no_repeat_ngram, min_tokens",
        ),
    ],
)
def test_a_command_that_cannot_be_is_refused_in_a_line(base, line, message):
    with pytest.raises(HermesError) as refused:
        run_command(talk_with(base), line)
    assert str(refused.value) == message


def test_a_warning_comes_behind_the_answers_line(base, capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: click.echo(message))
    talk = talk_with(base, max_tokens=2000, sampling=Sampling(temperature=0.0))
    _answer(talk, talk.say("the cat"), Signals())
    answer = talk.messages[1]["content"]
    shown = capsys.readouterr().out
    assert shown.startswith(f"{answer}\nthe context of 128 tokens is full after ")


@pytest.mark.parametrize(("is_terminal", "shown"), [(True, "a\u241b[2J\u2407\n\tb\ufffd\u2421"),
                                                    (False, HOSTILE)])  # fmt: skip
def test_a_terminal_obeys_no_model(monkeypatch, capsys, is_terminal, shown):
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    with stream_text() as show:
        show(HOSTILE)
    assert capsys.readouterr().out == f"{shown}\n"


def test_a_system_prompt_that_was_read_is_shown_and_not_obeyed(base):
    talk = talk_with(base, system=HOSTILE)
    assert run_command(talk, "/system") == "a\u241b[2J\u2407\n\tb\ufffd\u2421"


def test_a_pipe_is_one_message_and_its_answer_the_output(base):
    settings = ["--checkpoint", str(base), "--max-tokens", "6", "--backend", "torch"]
    done = CliRunner().invoke(
        chat,
        settings,
        input="the\ncat\n",
        obj=SimpleNamespace(signals=Signals()),
        catch_exceptions=False,
    )
    assert done.output == said(talk_with(base), "the\ncat") + "\n"
    empty = CliRunner().invoke(chat, settings, input=" \n", obj=SimpleNamespace(signals=Signals()))
    assert str(empty.exception) == "no message: write one to standard input"


def test_an_answer_is_made_anew_and_a_turn_forgotten(base):
    talk = talk_with(base, max_tokens=20)
    first = said(talk, "the cat")
    anew = "".join(talk.retry())
    assert anew != first
    assert [m["content"] for m in talk.messages] == ["the cat", anew]
    assert "".join(talk.retry()) not in (first, anew)
    stopped = talk.retry()
    next(stopped)
    stopped.close()
    assert len(talk.messages) == 2
    assert run_command(talk, "/undo") == "forgotten: 'the cat' and its answer"
    assert talk.messages == []
    assert said(talk, "the cat") == first
    talk.reset()
    for forget in (talk.undo, talk.retry):
        with pytest.raises(HermesError, match="there is no message yet"):
            forget()


def test_a_message_has_several_lines_between_quotes_or_before_a_backslash(monkeypatch):
    typed = iter(
        ['"""one', "  two", 'three"""', "a\\", "b\\", "c", '"""x"""', "plain", '"""/quit"""']
    )
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    assert [_read_message() for _ in range(5)] == [
        ("one\n  two\nthree", True), ("a\nb\nc", False), ("x", True), ("plain", False),
        ("/quit", True),
    ]  # fmt: skip


def test_a_terminal_chooses_among_the_models_here(base, tmp_path, monkeypatch):
    shutil.copytree(base, tmp_path / "models" / "one")
    (tmp_path / "empty").mkdir()
    assert find_models(tmp_path) == [tmp_path / "models" / "one"]
    for typed, chosen in ((["7", "x", "1"], tmp_path / "models" / "one"), (["n"], "made"),
                          (["q"], None)):  # fmt: skip
        answers = iter(typed)
        monkeypatch.setattr("builtins.input", lambda prompt, answers=answers: next(answers))
        assert choose_model(tmp_path, lambda: "made") == chosen
