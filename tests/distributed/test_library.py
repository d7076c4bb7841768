"""Under a launcher's variables the library joins its ranks, or refuses; it never trains alone."""

import json
import os
import subprocess
import sys

import pytest

import hermes
from hermes.errors import HermesError
from tests.distributed.support import WAIT, free_ports, lines, metrics

PROGRAM = """
import sys
import hermes
backend, output = sys.argv[1:]
options = dict(tokenizer="tokenizer.json", seq_len=16, batch_size=1, lr=1e-3, val_fraction=0.02,
               device="cpu", precision="float64", backend=backend)
seen = []
first = hermes.train("nano", "text.txt", output=output, max_steps=3, report=seen.append, **options)
print(len(seen), first.steps, first.loss)
# The ranks meet again in the same processes.
print(hermes.train("nano", "text.txt", output=output, max_steps=5, resume=True, **options).steps)
"""


def run_program(folder, backend, output, size):
    """Run the program once a rank, with the variables that a launcher sets; what each printed."""
    ports = free_ports(size)
    hosts = folder / f"hosts-{ports[0]}.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]))
    started = []
    for rank in range(size):
        own = {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)}
        if backend == "torch":
            own = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank),
                   "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(ports[0])}  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | (own if size > 1 else {})
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, backend, str(output)],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        said = [process.communicate(timeout=WAIT) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    for process, (_, errors) in zip(started, said, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [out.splitlines() for out, _ in said]


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_two_processes_of_a_script_make_one_run(corpus, tmp_path, backend):
    """The loss of two ranks with a sequence each is that of one with two."""
    together = run_program(corpus, backend, tmp_path / "two", 2)
    assert together[0] == together[1]
    assert together[0][1] == "5"
    assert len(metrics(tmp_path / "two")) == len(lines(tmp_path / "two"))
    steps = [line["step"] for line in metrics(tmp_path / "two") if "loss" in line]
    assert steps == [1, 2, 3, 4, 5]
    hermes.train(
        "nano", corpus / "text.txt", tokenizer=corpus / "tokenizer.json", output=tmp_path / "one",
        max_steps=5, seq_len=16, batch_size=2, lr=1e-3, val_fraction=0.02, device="cpu",
        precision="float64", backend=backend,
    )  # fmt: skip
    one = [line["loss"] for line in metrics(tmp_path / "one") if "loss" in line]
    two = [line["loss"] for line in metrics(tmp_path / "two") if "loss" in line]
    assert two == pytest.approx(one, abs=1e-11)


def test_a_launcher_of_another_backend_is_refused_before_anything_is_read(monkeypatch, tmp_path):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    with pytest.raises(HermesError, match=r"^torchrun starts processes of torch, and backend is"):
        hermes.train("nano", "none.txt", output=tmp_path / "run", backend="mlx")
    assert not (tmp_path / "run").exists()


def test_a_process_whose_peers_never_come_does_not_train_alone(monkeypatch, tmp_path, corpus):
    """It ends with PeerLost, and nothing is written."""
    program = (
        "import sys, hermes\nfrom hermes.errors import PeerLost\n"
        "from hermes.distributed import join\njoin.RENDEZVOUS_TIMEOUT = 2.0\n"
        "try:\n    hermes.train('nano', 'text.txt', tokenizer='tokenizer.json', "
        "output=sys.argv[1], backend='torch', device='cpu', peer_timeout=2)\n"
        "except PeerLost as error:\n    print('lost:', error)\n"
    )
    own = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2",
           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0])}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "run")],
        cwd=corpus, env=os.environ | own, capture_output=True, text=True, timeout=WAIT,
    )  # fmt: skip
    assert done.stdout.startswith("lost: rank 0 "), done.stderr[-2000:]
    assert not (tmp_path / "run").exists()
