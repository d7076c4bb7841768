"""What processes of torch agree on as they meet, and how many graphs their messages leave."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from hermes.distributed.process_group import RankInfo
from hermes.errors import PeerLost
from hermes_torch import process_group
from tests.backends.torch import compiled_messages
from tests.distributed.support import free_ports

# Twelve layers of 4 MiB; DDP sends the last one alone, so that messages begin early.
COUNT_GRAPHS = """
import sys
import torch
from torch import nn
from hermes.distributed.process_group import RankInfo
from hermes_torch import process_group
from tests.backends.torch import compiled_messages

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(1024, 1024, bias=False) for _ in range(12))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

group = process_group.join(RankInfo(rendezvous=f"127.0.0.1:{sys.argv[1]}"), "cpu")
for process_group.BUCKET_MB in (process_group.BUCKET_MB, 25):
    model, graphs = Model(), []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    torch.compile(group.wrap(model), backend=keep)(torch.ones(2, 1024)).sum().backward()
    assert all(layer.weight.grad is not None for layer in model.layers)
    print(len(graphs))
group.close()
"""


def test_nccl_gets_the_device_of_its_rank(monkeypatch):
    told = {}

    def tell(backend, **options):
        told.update(options, backend=backend)
        raise RuntimeError("no GPU is here")

    monkeypatch.setattr(torch.cuda, "set_device", lambda device: told.update(current=device))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(process_group.dist, "init_process_group", tell)
    (port,) = free_ports(1)
    with pytest.raises(PeerLost, match="no GPU is here"):
        process_group.ProcessGroup(RankInfo(rendezvous=f"127.0.0.1:{port}"), "cuda:3")
    assert told["backend"] == "cpu:gloo,cuda:nccl"
    assert told["current"] == "cuda:3"
    assert told["device_id"] == torch.device("cuda", 3)


def test_messages_cut_a_compiled_pass_into_few_graphs():
    (port,) = free_ports(1)
    command = [sys.executable, "-c", COUNT_GRAPHS, str(port)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    ours, torchs = map(int, ran.stdout.split())
    assert ours == 2 < torchs
    assert 100 <= process_group.BUCKET_MB <= 250


@pytest.mark.long
def test_recomputed_blocks_and_kernels_of_attention_are_compiled_between_messages():
    """As many graphs a pass, whatever blocks do: those of one block fill a message."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "tests.backends.torch.compiled_messages", str(port)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    said = dict(line.split(": ", 1) for line in ran.stdout.splitlines())
    assert said.keys() == compiled_messages.CASES.keys()
    for name, found in said.items():
        forward, backward, is_same = found.split(": ")
        assert int(forward) == int(backward) == 3, name
        assert is_same == "True", name
    assert "continues without" not in ran.stderr


def test_a_peer_may_be_silent_for_long_while_something_compiles_and_nccl_waits_a_little_longer(
    monkeypatch,
):
    told = []
    monkeypatch.setattr(
        process_group.dist.distributed_c10d,
        "_set_pg_timeout",
        lambda limit, group: told.append(("gloo", limit.total_seconds())),
    )
    nccl = SimpleNamespace(
        _set_default_timeout=lambda limit: told.append(("nccl", limit.total_seconds()))
    )
    group = object.__new__(process_group.ProcessGroup)
    group.rank_info = RankInfo(timeout=45, first_timeout=600)
    group.device, group._is_first_done = torch.device("cuda:0"), False
    group._groups = [SimpleNamespace(_get_backend=lambda device: nccl)]
    with group.allow_compiling():
        assert told == []  # the first step has the long limit as it is
    group.mark_first_step_done()
    assert told == [("gloo", 45), ("nccl", 75)]
    with group.allow_compiling():
        assert told[2:] == [("gloo", 600), ("nccl", 630)]
    assert told[4:] == [("gloo", 45), ("nccl", 75)]
