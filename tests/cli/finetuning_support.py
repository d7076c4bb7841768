"""The commands that tune, called on the files of a folder."""

import json

from hermes_cli.main import run

QUICK = ["--max-steps", "2", "--batch-size", "2", "--backend", "torch", "--device", "cpu"]


def command(place, name, *more, data, output):
    files = ["--checkpoint", str(place / "base"), "--data", str(place / data)]
    return run([name, *files, "--output", str(output), *QUICK, *more])


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
