"""The page on many GPUs says what its commands say, and the model behind it holds where it must."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import scaling  # noqa: E402
from predicted import Cluster, Job, predict_ddp, predict_fsdp, time_computing, time_ring  # noqa: E402

PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"`python benchmarks/scaling.py (predict.*?)`:\n\n((?:    .*\n)+)", PAGE)


@pytest.mark.parametrize(("command", "shown"), BLOCKS)
def test_a_table_of_the_page_is_what_its_command_prints(command, shown, capsys):
    scaling.main(command.split())
    printed = capsys.readouterr().out.rstrip().splitlines()
    assert [line[4:] for line in shown.rstrip().splitlines()] == printed


def test_the_page_has_tables():
    assert len(BLOCKS) == 3


def test_one_machine_sends_over_its_own_network_alone():
    assert time_ring(Cluster(intra=100, inter=1e-9), 8, 8e9) == pytest.approx(7 / 8 * 8e9 / 1e11)


def test_networks_without_limit_leave_computing_and_waiting():
    free = Cluster(intra=1e12, inter=1e12, latency=0, jitter=0)
    for formula in (predict_ddp, predict_fsdp):
        compute, send, exposed, whole = formula(free, Job(), 512)
        assert compute == time_computing(free, Job())
        assert send == pytest.approx(0, abs=1e-6)
        assert exposed == pytest.approx(0, abs=1e-6)
        assert whole > compute


def test_more_micro_batches_send_no_more_with_ddp_and_more_with_fsdp():
    one, four = Job(), Job(accum=4)
    assert predict_ddp(Cluster(), four, 64)[1] == predict_ddp(Cluster(), one, 64)[1]
    assert predict_fsdp(Cluster(), four, 64)[1] == pytest.approx(
        4 * predict_fsdp(Cluster(), one, 64)[1]
    )
