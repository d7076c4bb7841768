"""oneDNN keeps no kernel for every length that was ever read."""

import json
import os
import subprocess
import sys

import pytest

from tests.memory_growth import needs_proc

# Products of bfloat16 with 600 numbers of rows, after a model was built; megabytes that stay.
SCRIPT = """
import sys, torch
from hermes.interface import Options, find_backend
from tests.interop.models import MODELS, hot_weights
from tests.memory_growth import read_private_memory
spec = MODELS["llama"][1]
find_backend("torch").build(spec, hot_weights(spec), Options(device="cpu"))
weight = torch.randn(64, 16, dtype=torch.bfloat16)
with torch.no_grad():
    for rows in range(1, 11):
        torch.nn.functional.linear(torch.ones(rows, 16, dtype=torch.bfloat16), weight)
    before = read_private_memory()
    for rows in range(11, 611):
        torch.nn.functional.linear(torch.ones(rows, 16, dtype=torch.bfloat16), weight)
print((read_private_memory() - before) / 1e6)
"""
NAMES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def measure(**own):
    """Megabytes that the kernels of 600 shapes keep."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    ran = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True,
                         text=True, env={**environment, "OMP_NUM_THREADS": "1", **own})  # fmt: skip
    return json.loads(ran.stdout)


@needs_proc
@pytest.mark.long
def test_kernels_of_many_shapes_do_not_fill_memory():
    """The user's own setting is left as it is, and shows what is kept without one."""
    kept, limited = measure(**dict.fromkeys(NAMES, "1024")), measure()
    if kept < 20:
        pytest.skip("this CPU has no kernel for each shape")
    assert limited < kept / 2
