"""Secrets of the environment are in nothing that hermes writes, says or starts, and no command that
names no other machine connects to one.
"""

import json
import os
import subprocess
import sys

import pytest

from hermes.tokenizer import train_tokenizer
from tests.cli.support import LITTLE, TEXT

NAMES = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD"),
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GITHUB_TOKEN", "OPENAI_API_KEY"),
    *("HERMES_API_KEY", "DATABASE_URL", "SSH_AUTH_SOCK", "MY_OWN_SECRET"),
)
SECRETS = {name: f"canary-{number:02}-5eCr3t" for number, name in enumerate(NAMES)}
KEPT = "canary-of-a-file-5eCr3t"  # as `hf auth login` leaves one
SCRIPT = """
import json, sys
events = []
def listen(event, arguments):
    if event == "subprocess.Popen":
        events.append(f"started {arguments[0]} {arguments[1]}")
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        events.append(f"connected to {arguments[1]}")
    if event == "socket.getaddrinfo":
        events.append(f"looked up {arguments[0]}")
sys.addaudithook(listen)
from hermes_cli.main import run
from hermes.training.loop import TrainingLoop
for words in json.loads(sys.argv[1]):
    if words[0] == "fail":
        def fail(self):
            raise ZeroDivisionError("planted")
        TrainingLoop._draw_batch = fail
        words = words[1:]
    print("$", *words, flush=True)
    try:
        code = run(words)
    except ZeroDivisionError:
        import traceback
        traceback.print_exc()
        code = "raised"
    print("=", code, flush=True)
print("!", json.dumps(events))
"""


TRAIN = [
    *("train", "--data", "text.txt", "--tokenizer", "tokenizer.json", "--model", "little.mal"),
    *("--seq-len", "16", "--batch-size", "2", "--max-steps", "2", "--device", "cpu"),
    *("--sample-every", "1", "--sample-tokens", "2", "--backend", "torch"),
]
COMMANDS = [
    [*TRAIN, "--output", "run"],
    ["generate", "--checkpoint", "run", "--prompt", "the", "--max-tokens", "2"],
    ["prepare", "--data", "text.txt", "--tokenizer", "tokenizer.json", "--output", "tokens",
     "--workers", "1"],
]  # fmt: skip
MORE = [
    [*TRAIN, "--output", "run", "--print-config"],
    ["train", "--resume", "--output", "run", "--max-steps", "3"],
    ["eval", "--checkpoint", "run", "--data", "text.txt"],
    ["convert", "run", "hf", "--to", "hf"],
    ["finetune", "--checkpoint", "hf", "--data", "text.txt", *TRAIN[7:], "--output", "tuned"],
    ["checkpoint", "verify", "run/step-00000003"],
    ["info", "--model", "run/step-00000003"],
    ["plan", "--model", "little.mal"],
    ["doctor"],
    ["conformance", "run", "--backend", "torch", "--law", "L1/logits", "--case", "default/*",
     "--json", "certificate.json"],
]  # fmt: skip


@pytest.mark.parametrize("more", [[], pytest.param(MORE, marks=pytest.mark.long)])
def test_secrets_are_written_and_said_nowhere_and_nothing_is_connected_to(tmp_path, more):
    work, home = tmp_path / "work", tmp_path / "home"
    work.mkdir()
    home.mkdir()
    (home / "token").write_text(KEPT)
    (work / "text.txt").write_text(TEXT)
    (work / "little.mal").write_text(LITTLE)
    train_tokenizer([TEXT], vocab_size=270).save(work / "tokenizer.json")
    commands = [*COMMANDS, *more, ["fail", *TRAIN, "--output", "failed"]]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)],
        cwd=work,
        env=os.environ | SECRETS | {"HF_HOME": str(home), "XDG_CACHE_HOME": str(work / "cache")},
        capture_output=True,
        text=True,
        timeout=900,
    )
    said = done.stdout + done.stderr
    codes = [line[2:] for line in done.stdout.splitlines() if line.startswith("= ")]
    assert len(codes) == len(commands), said
    assert codes[:-1] == ["0"] * (len(commands) - 1), said
    assert codes[-1] != "0"
    assert "planted" in said
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("! ")]
    events = json.loads(line[2:])
    assert [one for one in events if one.startswith("started ")], "the worker that encodes"
    assert not [one for one in events if not one.startswith("started ")]
    written = [path for path in work.rglob("*") if path.is_file()]
    assert len(written) > 20
    for secret in (*SECRETS.values(), KEPT):
        assert secret not in said
        assert not [path for path in written if secret.encode() in path.read_bytes()]
    assert (home / "token").read_text() == KEPT
