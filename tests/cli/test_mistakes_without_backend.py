"""A mistake that needs no backend, token or network to be seen is told before any is asked for."""

import json
import os
import subprocess
import sys

import pytest

import hermes

MISTAKES = {
    "train --model nope --data t.txt": "there is no model or file 'nope'",
    "train --model tiny --data missing.txt": "missing.txt: no such file",
    "train --model tiny --data t.txt --val-data missing.txt": "missing.txt: no such file",
    "train --model tiny --data t.txt": "no tokenizer: give --tokenizer FILE",
    "train --model tiny --data t.txt --tokenizer missing": "missing: no such tokenizer",
    "train --model tiny --data t.txt --tokenizer t.txt": "t.txt:1:1: not JSON",
    "train --model tiny --data t.txt --tokenizer large.txt": "large.txt:1:1: not JSON",
    "train --model tiny --data t.txt --tokenizer .": "no such tokenizer",
    "train --model tiny --data t.txt --train-tokenizer --device tpu": "has no device 'tpu'",
    "train --model tiny --data t.txt --train-tokenizer --backend mlx --device cuda": "gpu and cpu",
    "train --model tiny --data t.txt --train-tokenizer --keep-best so": "there is no metric 'so'",
    "train --model tiny --data t.txt --train-tokenizer --keep-best val_loss": "--val-data",
    "train --model tiny --data t.txt --train-tokenizer --patience 2": "needs sequences held out",
    "train --model tiny --data t.txt --train-tokenizer --keep-best val_loss_ema": "'val_loss_ema'",
    "train --data t.txt --resume --output . --keep-best so": "there is no metric 'so'",
    "dpo --checkpoint . --data t.txt --keep-best accurac": "did you mean 'accuracy'?",
    "dpo --checkpoint . --data t.txt --patience 1": "needs pairs held out: --val-fraction",
    "sft --checkpoint . --data t.txt --device tpu": "has no device 'tpu'",
    "sft --checkpoint . --data t.txt --tokenizer t.txt": "t.txt:1:1: not JSON",
    "train --model tiny --data t.txt --train-tokenizer --lr -1": "--lr must be above 0",
    "train --model tiny --data t.txt --train-tokenizer --seq-len 4096": "max_seq_len",
    "train --model tiny --data t.txt --train-tokenizer --precision f9": "precision is 'f9'",
    "train --model tiny --data t.txt --train-tokenizer --freeze-layers 99": "has 4 layers",
    "train --model tiny --data t.txt --train-tokenizer --keep-last 0": "--keep-last must",
    "train --model tiny --data t.txt --train-tokenizer --log-every 0": "--log-every must",
    "train --model tiny --data t.txt --train-tokenizer --save-minutes -1": "--save-minutes must",
    "train --model tiny --data t.txt --train-tokenizer --patience -1": "--patience must",
    "train --model tiny --data t.txt --train-tokenizer --on-nonfinite so": "--on-nonfinite must",
    "train --model tiny --data t.txt --train-tokenizer --spike-window 1": "--spike-window must",
    "train --model tiny --data t.txt --train-tokenizer --sample-tokens 0": "--sample-tokens must",
    "train --model tiny --data t.txt --train-tokenizer --track so": "there is no tracker 'so'",
    "train --model tiny --data t.txt --train-tokenizer --set model.num_layer=3": "num_layers",
    "train --model tiny --data t.txt --train-tokenizer --set recipe.optimizer.beta2=2": "beta2",
    "train --num-processes 2 --model nope --data t.txt": "there is no model or file 'nope'",
    "train --cooldown-from missing --data t.txt": "missing: no such file or folder",
    "finetune --checkpoint missing --data t.txt": "missing: no such file or folder",
    "finetune --checkpoint . --data t.txt --lora-alpha 3": "give --lora-rank with it",
    "sft --checkpoint . --data missing.jsonl": "missing.jsonl: no such file",
    "sft --checkpoint . --data t.txt --grad-clip -1": "--grad-clip must",
    "dpo --checkpoint . --data t.txt --max-len 0": "--max-len must be at least 1",
    "dpo --checkpoint . --data t.txt --beta -1": "--beta must be above 0",
    "sft --checkpoint . --data t.txt": "t.txt: unknown ending '.txt'",
    "dpo --checkpoint . --data t.txt": "t.txt: unknown ending '.txt'",
    "finetune --checkpoint . --data made --data t.txt": "by --data made:0.5 --data t.txt:0.5",
    "train --model tiny --data t.txt --data made": "by --data made:0.5 --data t.txt:0.5",
    "train --model tiny --data begun": "begun holds tokens that are not all prepared yet",
    "train --model tiny --data [m]ade": "made holds prepared tokens, where text is needed",
    "sft --checkpoint . --data t.txt --template missing": "missing: no such template",
    "sft --checkpoint . --data t.txt --template-arg so": "must be KEY=VALUE",
    "sft --checkpoint . --data t.txt --push-to-hub so": "not the name of a repository",
    "generate -c . --max-tokens 0": "--max-tokens must be at least 1",
    "generate -c missing": "missing: no such file or folder",
    "generate -c . --tokenizer missing": "missing: no such tokenizer",
    "generate -c . --tokenizer t.txt": "t.txt:1:1: not JSON",
    "generate -c . --device tpu": "has no device 'tpu'",
    "generate -c . --temperature -1": "--temperature must",
    "generate -c . --prompts missing.jsonl": "cannot read missing.jsonl",
    "chat -c missing": "missing: no such file or folder",
    "chat -c . --device tpu": "has no device 'tpu'",
    "chat -c . --tokenizer t.txt": "t.txt:1:1: not JSON",
    "chat -c . --top-p 2": "--top-p must",
    "serve -c missing": "missing: no such file or folder",
    "serve -c . --device tpu": "has no device 'tpu'",
    "eval -c . --data t.txt --device tpu": "has no device 'tpu'",
    "eval -c . --data t.txt --tokenizer t.txt": "t.txt:1:1: not JSON",
    "conformance run --backend torch --device tpu": "has no device 'tpu'",
    "eval -c missing --data t.txt": "missing: no such file or folder",
    "eval -c . --data missing.txt": "missing.txt: no such file",
    "conformance run --backend torch --law nope": "no law is called 'nope'",
    "conformance bisect --case nope": "no case 'nope' in L1",
    "push missing owner/repo": "missing: no such file or folder",
    "push t.txt owner/repo": "t.txt",
    "push . owner/repo": "no model hermes reads",
    "convert hf://owner/repo t.txt --to hf": "t.txt already exists",
    "merge -c hf://owner/repo -o t.txt": "t.txt already exists",
    "merge -c hf://owner/repo -o new --adapter missing": "missing: no such adapter",
    "prepare missing.txt --tokenizer hf://owner/repo -o new": "missing.txt: no such file",
    "data check missing.txt --tokenizer hf://owner/repo": "missing.txt: no such file",
    "chat -c hf://owner/repo --template missing": "missing: no such template",
    "serve -c hf://owner/repo --template missing": "missing: no such template",
    "quickstart --output t.txt": "output 't.txt' is a file",
}
CALLS = {
    "train": (["nope", "t.txt"], {}, "there is no model or file 'nope'"),
    "finetune": ([".", "t.txt"], {"lr": -1}, "lr must be above 0"),
    "sft": (["missing", "t.txt"], {}, "missing: no such file or folder"),
    "dpo": ([".", "t.txt"], {"beta": -1}, "beta must be above 0"),
    "load": (["missing"], {}, "missing: no such file or folder"),
    "generate": ([".", "a"], {"temperature": -1}, "temperature must"),
    "evaluate": ([".", "missing.txt"], {}, "missing.txt: no such file"),
}
# Each in a process of its own, forked from one that has imported hermes.
SCRIPT = """
import json, os, shlex, sys
import hermes, hermes.api_preferences, hermes.api_generation, hermes.api_evaluation
import hermes_cli.main

def run_line(line):
    said = []
    code = hermes_cli.main.run(shlex.split(line), said.append)
    return code, " ".join(said)

def run_call(name, args, kwargs):
    try:
        getattr(hermes, name)(*args, **kwargs)
    except hermes.HermesError as error:
        return error.exit_code, str(error)

for run, arguments in json.load(sys.stdin):
    sys.stdout.flush()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        continue
    loaded = "nothing was said", None
    try:
        code, said = globals()[run](*arguments)
        loaded = [code, said, sorted({"torch", "mlx"} & set(sys.modules))]
    finally:
        print(json.dumps(loaded))
        sys.stdout.flush()
        os._exit(0)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "t.txt").write_text("some text\n" * 99)
    (folder / "large.txt").write_text("some text\n" * 200_000)
    (folder / "text.jsonl").write_text('{"text": "a"}\n{"body": "a"}\n')
    tokenizer = hermes.train_tokenizer(folder / "t.txt", vocab_size=300)
    hermes.prepare(folder / "t.txt", tokenizer, output=folder / "made")
    with pytest.raises(hermes.HermesError):
        hermes.prepare(folder / "text.jsonl", tokenizer, output=folder / "begun", part="1/2")
    lines = [("run_line", [line]) for line in MISTAKES]
    calls = [("run_call", [name, args, kwargs]) for name, (args, kwargs, _) in CALLS.items()]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([*lines, *calls]),
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
        env=os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": ""},  # who asks, fails
    )
    found = map(json.loads, done.stdout.splitlines())
    return dict(zip([*MISTAKES, *CALLS], found, strict=True))


@pytest.mark.parametrize("line", MISTAKES)
def test_a_command_tells_a_mistake_before_a_backend_is_loaded(line, answers):
    code, said, loaded = answers[line]
    assert MISTAKES[line] in said
    assert (code, loaded) == (1, [])


@pytest.mark.parametrize("name", CALLS)
def test_a_function_tells_a_mistake_before_a_backend_is_loaded(name, answers):
    code, said, loaded = answers[name]
    assert CALLS[name][2] in said
    assert (code, loaded) == (1, [])
