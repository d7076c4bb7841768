"""Before a model is built to be used: its weights are compared with the memory of its device."""

import re

import pytest

import hermes
from hermes.api_serving import open_served_model
from hermes.errors import OutOfMemory
from hermes.interface import LazyTensors
from hermes.interop import verify
from hermes.interop.open_model import open_model
from hermes.interop.verify import count_verification_bytes
from hermes.model_info import fitting
from hermes.model_info.cost import compute_cost
from hermes.model_info.memory import HostMemory
from hermes.numerics.params import list_parameters
from tests.finetuning.support import small_checkpoint, small_spec


@pytest.fixture
def memory(monkeypatch):
    """The memory of a machine, as given."""

    def give(total, available, limit=""):
        found = HostMemory(total, available, limit)
        monkeypatch.setattr(fitting, "read_host_memory", lambda: found)

    return give


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_is_loaded_only_where_its_weights_fit(tmp_path, memory, precision):
    path, spec = small_checkpoint(tmp_path), small_spec()
    needed = compute_cost(spec).memory[precision]["weights"]
    memory(2 * needed, needed - 1)
    with pytest.raises(OutOfMemory) as refused:
        hermes.load(path, precision=precision, device="cpu")
    assert re.fullmatch(
        r"small needs \S+ kB of memory, and of this machine's \S+ kB \S+ kB is available; choose a "
        r"smaller precision or another device, or force it with force=True",
        str(refused.value),
    )
    memory(2 * needed, needed - 1, "ulimit -v")
    with pytest.raises(OutOfMemory, match=r" is available, because of ulimit -v; choose a smaller"):
        hermes.load(path, precision=precision, device="cpu")
    with pytest.warns(UserWarning, match=r"^small needs \S+ kB of memory, and of this machine's"):
        hermes.load(path, precision=precision, device="cpu", force=True)
    memory(2 * needed, needed)
    hermes.load(path, precision=precision, device="cpu")


USES = {
    "evaluate": lambda path, out, **more: hermes.evaluate(
        path, __file__, format="txt", seq_len=32, device="cpu", **more
    ),
    "generate": lambda path, out, **more: hermes.generate(path, "a", device="cpu", **more),
    "chat": lambda path, out, **more: hermes.chat(path, device="cpu", **more),
    "convert": lambda path, out, **more: hermes.convert(path, out, to="hf", **more),
}


@pytest.mark.filterwarnings("ignore:small")
@pytest.mark.parametrize("use", USES)
def test_every_use_of_a_model_looks_at_memory_and_can_be_forced(tmp_path, memory, use):
    path, out = small_checkpoint(tmp_path), tmp_path / "out"
    memory(10_000, 10_000)
    with pytest.raises(OutOfMemory, match=r"small needs \S+ kB of memory, and of this machine's"):
        USES[use](path, out)
    assert not out.exists()
    done = USES[use](path, out, force=True)
    if use == "convert":
        assert done.notes[-1].startswith("converting small needs ")


def test_a_comparison_needs_what_its_largest_pass_holds(tmp_path, monkeypatch):
    """Both models at once, or a layer of each and the largest tensor."""
    model = open_model(small_checkpoint(tmp_path))
    spec, sizes = model.spec, {n: one.size for n, one in list_parameters(model.spec).items()}
    half = dict.fromkeys(model.dtypes, "BF16")
    largest = 6 * max(sizes.values())
    assert count_verification_bytes(spec, model.dtypes, half) == 10 * sum(sizes.values()) + largest
    monkeypatch.setattr(verify, "MAX_AT_ONCE", 0)
    layer = sum(size for name, size in sizes.items() if not name.startswith("model.layers.1."))
    assert count_verification_bytes(spec, model.dtypes, half) == 10 * layer + largest


def test_no_tensor_is_read_to_find_out(tmp_path, memory, monkeypatch):
    def read(name):
        raise AssertionError(f"{name} was read")

    path, spec = small_checkpoint(tmp_path), small_spec()
    monkeypatch.setattr(LazyTensors, "__getitem__", lambda self, name: read(name))
    memory(10_000, 10_000)
    with pytest.raises(OutOfMemory, match=r"^small needs"):
        hermes.load(path, device="cpu")
    assert spec.name == "small"


@pytest.mark.parametrize(
    ("backend", "precision", "size"),
    [("torch", "float32", 4), ("torch", "bfloat16", 4), ("mlx", "bfloat16", 2)],
)
def test_a_server_begins_only_where_its_cache_fits(tmp_path, memory, backend, precision, size):
    """Later it would answer each request that there is no memory, or be ended by the system."""
    path = small_checkpoint(tmp_path)
    options = {"backend": backend, "device": "cpu", "precision": precision, "rows": 300}
    needed = size * 300 * small_spec().max_seq_len * compute_cost(small_spec()).kv_bytes_per_token[
        "bfloat16"
    ] // 2  # fmt: skip
    memory(2 * needed, needed - 1)
    with pytest.raises(OutOfMemory) as refused:
        open_served_model(path, **options)
    assert re.fullmatch(
        r"the KV cache of 300 rows of \d+ tokens needs \S+ MB of memory, and of this machine's \S+ "
        r"MB \S+ MB is available; choose fewer --rows or a shorter --context, or force it with "
        r"--force",
        str(refused.value),
    )
    with pytest.warns(UserWarning, match=r"^the KV cache of 300 rows of \d+ tokens needs \S+ MB"):
        open_served_model(path, **options, force=True)
    memory(2 * needed, needed)
    open_served_model(path, **options)
    memory(2 * needed, needed - 1)
    open_served_model(path, **options | {"rows": 299})
