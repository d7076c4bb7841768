"""Activations are recorded in any backend that has our layout, and in no other."""

import shutil
import sys
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

import pytest

from hermes.errors import Unsupported
from hermes_conformance.bisect.activations import trace
from hermes_conformance.bisect.first_difference import compare_forward
from hermes_conformance.faults.patcher import Patcher
from hermes_conformance.measure.subject import Backends, BackendUnderTest
from hermes_conformance.measure.tolerance import BISECT_64
from tests.conformance.support import find_case


def test_a_backend_without_model_py_cannot_be_traced(backends):
    subject = BackendUnderTest(backends("torch").oracle.backend)
    subject.name = "another"
    with pytest.raises(Unsupported, match=r"there is no hermes_another\.model"):
        trace(subject, find_case("default/hot"))


@pytest.fixture
def copy_backend(tmp_path, monkeypatch):
    """Makes a third party's backend with our layout: a copy of one of ours, renamed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    packages = []

    def copy(original, changes=()):
        name = f"hermes_mine_{original}"
        origin = Path(import_module(f"hermes_{original}").__file__).parent
        shutil.copytree(origin, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        for file in (tmp_path / name).glob("*.py"):
            text = file.read_text(encoding="utf-8").replace(f"hermes_{original}", name)
            text = text.replace(f'name = "{original}"', f'name = "mine_{original}"')
            for old, new in changes:
                text = text.replace(old, new)
            file.write_text(text, encoding="utf-8")
        packages.append(name)
        return BackendUnderTest(import_module(f"{name}.backend").BACKEND)

    yield copy
    for module in [m for m in sys.modules if m.split(".")[0] in packages]:
        del sys.modules[module]


@pytest.mark.parametrize("original", ["torch", "mlx", "numpy"])
def test_a_third_partys_backend_with_our_layout_is_traced(backends, copy_backend, original):
    subject, reference = copy_backend(original), backends("mlx", "torch").reference
    found, case = Backends(subject, reference, reference), find_case("default/hot")
    assert compare_forward(found, case, BISECT_64) is None
    names = [record.name for record in trace(subject, case)]
    assert names == [record.name for record in trace(reference, case)]
    with ExitStack() as stack:
        Patcher(subject.name, stack).wrap_forward(
            "Norm", lambda forward: lambda self, x: 2 * forward(self, x)
        )
        difference = compare_forward(found, case, BISECT_64)
    assert difference.tensor == "layers.0.input_layernorm"


def test_what_a_backend_lacks_to_be_traced_is_named(copy_backend):
    case = find_case("default/hot")
    without_class = copy_backend("numpy", [("FeedForward", "Mixer")])
    with pytest.raises(
        Unsupported, match=r"hermes_mine_numpy\.model has no FeedForward; see specs"
    ):
        trace(without_class, case)
    with ExitStack() as stack:
        without_tables = copy_backend("mlx")
        patcher = Patcher("mine_mlx", stack)
        for table in ("EXACT", "FAST", "PLAIN"):
            patcher.replace(patcher.load_module("runtime"), table, None)
        with pytest.raises(
            Unsupported, match=r"no EXACT or FAST or PLAIN of hermes_mine_mlx\.runtime"
        ):
            trace(without_tables, case)
