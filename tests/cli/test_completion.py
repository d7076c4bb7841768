"""What shells complete, asked of hermes and typed into shells that are installed."""

import os
import pty
import select
import shutil
import subprocess
import time

import pytest

from hermes.options import COMMANDS, Option, get_options
from hermes_cli.options.completion import complete_argument, complete_option
from tests.cli.support import HERMES
from tests.waiting import PATIENCE


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script_for_completion(shell):
    script = complete(f"{shell}_source")
    assert "_HERMES_COMPLETE=" in script
    assert "hermes" in script
    assert "Usage" not in script


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("hermes trai", ["train-tokenizer", "train"]),
        ("hermes train --grad-c", ["--grad-checkpoint", "--grad-clip"]),
        ("hermes train --schedule co", ["constant", "cosine"]),
        ("hermes train --model smol", ["smol-llama"]),
        ("hermes mal f", ["format"]),
        ("hermes info na", ["nano"]),
        ("hermes mal check nano smol", ["smol-llama"]),
        ("hermes mal diff nano ti", ["tiny"]),
        ("hermes conformance run --against to", ["torch"]),
        ("hermes train --track ten", ["tensorboard"]),
        ("hermes train --text-field te", []),
        ("hermes train --lr 1", []),
    ],
)
def test_words_are_completed(here, words, found):
    given = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    lines = complete("bash_complete", **given).split()
    completed = [line.removeprefix("plain,") for line in lines if line.startswith("plain,")]
    assert sorted(completed) == sorted(found)


def complete(instruction, **environment):
    done = subprocess.run(
        [HERMES], capture_output=True, text=True, check=False,
        env=os.environ | {"_HERMES_COMPLETE": instruction, **environment},
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("hermes train te", "file"),
        ("hermes eval te", "file"),
        ("hermes train --data te", "file"),
        ("hermes train --tokenizer t", "file"),
        ("hermes train --checkpoint r", "file"),
        ("hermes train --output r", "dir"),
        ("hermes sft --output r", "dir"),
        ("hermes merge --output r", "dir"),
        ("hermes prepare --output r", "dir"),
        ("hermes data verify r", "dir"),
        ("hermes data trace run --document te", "file"),
        ("hermes info sub/", "file"),
        ("hermes convert r", "file"),
    ],
)
def test_the_shell_is_asked_for_files_and_folders(here, words, kind):
    given = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    assert complete("bash_complete", **given) == f"{kind},{words.split()[-1]}\n"


def test_what_names_a_file_or_a_folder_is_completed_to_one():
    """By what help shows of it; an output was left out, as it is no path of a resumed run."""
    wrong = []
    for command in COMMANDS:
        for entry in (*get_options(command).values(), *COMMANDS[command].arguments):
            shown = set(entry.metavar.strip("[].").replace("|", " ").split())
            if shown & {"FILE", "DIR", "FILES", "RUN", "PATH"}:
                completer = complete_option if isinstance(entry, Option) else complete_argument
                if not {item.type for item in completer(entry, "x")} & {"file", "dir"}:
                    wrong.append((command, entry.name))
    assert wrong == []


def test_a_model_is_a_bundled_one_or_a_file_here(here):
    for name in ("notes.txt", "nab.mal", ".naked"):
        (here / name).touch()
    (here / "na me").touch()  # bash would take it for two words
    (here / "nanos").mkdir()
    given = {"COMP_WORDS": "hermes info na", "COMP_CWORD": "2"}
    found = complete("bash_complete", **given).split()
    assert found == ["plain,nano", "plain,nab.mal", "plain,nanos/"]
    assert complete("zsh_complete", **given).split() == ["plain", "nano", "_", "file", "na", "_"]
    every = complete("bash_complete", COMP_WORDS="hermes info ", COMP_CWORD="2").split()
    assert {"plain,tiny", "plain,notes.txt"} <= set(every)
    assert "plain,.naked" not in every


# How each begins, and what its user has it read to complete hermes.
SHELLS = {
    "bash": (("--norc", "--noprofile", "-i"), 'eval "$(_HERMES_COMPLETE=bash_source hermes)"'),
    "zsh": (
        ("-f", "-i"),
        "autoload -Uz compinit; compinit -u -D; PS1='$ '; "
        'eval "$(_HERMES_COMPLETE=zsh_source hermes)"',
    ),
}


class Shell:
    """A shell in a terminal, in which hermes completes."""

    def __init__(self, name, folder):
        options, begin = SHELLS[name]
        self._own, other = pty.openpty()
        self.process = subprocess.Popen(
            [shutil.which(name), *options],
            stdin=other, stdout=other, stderr=other, cwd=folder, start_new_session=True,
            env=os.environ
            | {"PATH": f"{HERMES.parent}{os.pathsep}{os.environ['PATH']}", "TERM": "dumb"},
        )  # fmt: skip
        os.close(other)
        # The end is computed, so that what is typed does not look like it.
        self.type(f"{begin}; echo rea''dy\n", until="ready\r")

    def type(self, keys, until):
        os.write(self._own, keys.encode())
        shown, end = "", time.monotonic() + PATIENCE
        while until not in shown:
            assert time.monotonic() < end, shown
            if select.select([self._own], [], [], 1)[0]:
                shown += os.read(self._own, 1 << 16).decode("utf-8", "replace")

    def end(self):
        self.process.kill()
        self.process.wait()
        os.close(self._own)


@pytest.fixture(params=SHELLS)
def shell(request, here):
    if shutil.which(request.param) is None:
        pytest.skip(f"no {request.param} here")
    (here / "runs").mkdir()
    (here / "runs" / "first").mkdir()
    (here / "novel.mal").touch()
    shell = Shell(request.param, here)
    yield shell
    shell.end()


def test_a_shell_completes_commands_options_choices_and_paths(shell):
    clear = "\x15"  # Ctrl-U
    for typed, rest in [
        ("hermes quicks", "tart "),
        ("hermes train --data te", "xt.txt"),
        ("hermes train --selective-c", "heckpoint "),
        ("hermes train --schedule cos", "ine "),
        ("hermes train te", "xt.txt"),
        ("hermes train --output ru", "ns"),
        ("hermes train --output runs/fi", "rst"),
        ("hermes info nov", "el.mal"),
        ("hermes info smo", "l-llama"),
    ]:
        shell.type(f"{clear}{typed}\t", until=typed + rest)


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish here")
@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("hermes quicks", "quickstart"),
        ("hermes train --selective-c", "--selective-checkpoint"),
        ("hermes train te", "text.txt"),
        ("hermes train --output ru", "runs/"),
        ("hermes info nov", "novel.mal"),
        ("hermes info smo", "smol-llama"),
    ],
)
def test_fish_completes_them_too(here, typed, found):
    (here / "runs").mkdir()
    (here / "novel.mal").touch()
    script = f"_HERMES_COMPLETE=fish_source hermes | source; complete -C '{typed}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], capture_output=True, text=True, check=True,
        env=os.environ | {"PATH": f"{HERMES.parent}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [found]
