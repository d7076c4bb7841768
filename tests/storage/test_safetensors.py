"""Tensor files: the same bytes always, the public reader's equal, hostile ones refused."""

import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as public

from hermes.checkpoint import TensorFile
from hermes.errors import CheckpointError, NonFinite
from hermes.storage.safetensors import DTYPES, describe_tensors, encode_dtype, encode_tensors
from tests.checkpoint.support import equal_tensors, write_tensors


def all_dtypes():
    random = np.random.default_rng(0)
    tensors = {}
    for code, dtype in DTYPES.items():
        high = 2 if code == "BOOL" else 100
        for name, shape in (("z", (3, 5)), ("a", (7,)), ("empty", (0, 4)), ("scalar", ())):
            tensors[f"{name}.{code}"] = random.integers(0, high, shape).astype(dtype)
    return tensors


def test_the_public_writer_makes_the_same_bytes(tmp_path):
    tensors = all_dtypes()
    public.save_file(tensors, tmp_path / "public", metadata={"format": "pt"})
    write_tensors(tmp_path / "ours", tensors)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "public").read_bytes()


def test_the_public_reader_reads_what_we_write_and_we_what_it_writes(tmp_path):
    tensors = all_dtypes()
    equal_tensors(public.load_file(write_tensors(tmp_path / "ours", tensors)), tensors)
    public.save_file(tensors, tmp_path / "public", metadata={"a": "1", "b": "2"})
    read = TensorFile(tmp_path / "public")
    equal_tensors(read, tensors)
    assert read.metadata == {"a": "1", "b": "2"}


def test_the_order_of_a_mapping_changes_no_byte(tmp_path):
    tensors = all_dtypes()
    turned = dict(reversed(tensors.items()))
    first, second = write_tensors(tmp_path / "a", tensors), write_tensors(tmp_path / "b", turned)
    assert first.read_bytes() == second.read_bytes()


def test_memory_order_and_byte_order_change_no_byte(tmp_path):
    plain = np.arange(12, dtype=np.float32).reshape(3, 4)
    odd = np.asfortranarray(plain).astype(">f4")
    first, second = (
        write_tensors(tmp_path / "a", {"x": plain}),
        write_tensors(tmp_path / "b", {"x": odd}),
    )
    assert first.read_bytes() == second.read_bytes()


def test_each_tensor_is_made_once_and_in_its_turn(tmp_path):
    made = []

    class Lazy(dict):
        def __getitem__(self, name):
            made.append(name)
            return super().__getitem__(name)

    tensors = Lazy({"b": np.ones(2, np.float32), "a": np.ones(3, np.float32)})
    kinds = describe_tensors(dict(tensors))
    chunks = encode_tensors(tensors, kinds)
    next(chunks)
    assert made == []
    list(chunks)
    assert made == ["a", "b"]


def test_what_is_read_is_a_copy(tmp_path):
    path = write_tensors(tmp_path / "f", {"x": np.ones(4, np.float32)})
    file = TensorFile(path)
    file["x"][:] = 7
    assert (file["x"] == 1).all()


def test_a_large_tensor_comes_in_pieces_and_is_whole(tmp_path):
    values = np.random.default_rng(0).standard_normal((3, 2**20 + 1)).astype(np.float32)
    write_tensors(tmp_path / "f", {"x": values})
    assert (TensorFile(tmp_path / "f")["x"] == values).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_numbers_are_refused_wherever_they_stand(dtype, value):
    tensors = {"x": np.zeros(2**22 + 5, dtype)}
    tensors["x"][-1] = value
    with pytest.raises(NonFinite, match="tensor 'x' holds NaN or an infinity and was not saved"):
        list(encode_tensors(tensors, describe_tensors(tensors)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_the_largest_numbers_are_numbers(dtype):
    largest = ml_dtypes.finfo(dtype).max
    list(encode_tensors({"x": np.array([largest, -largest])}, {"x": kinds_of_one(dtype)}))


def kinds_of_one(dtype):
    return describe_tensors({"x": np.zeros(2, dtype)})["x"]


def test_what_cannot_be_said_in_the_format_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="dtype complex64 cannot be saved; known are U64"):
        describe_tensors({"x": np.zeros(1, np.complex64)})
    with pytest.raises(CheckpointError, match="tensor name 'a b' cannot be saved"):
        write_tensors(tmp_path / "f", {"a b": np.zeros(1, np.float32)})
    kinds = describe_tensors({"x": np.zeros(2, np.float32)})
    with pytest.raises(CheckpointError, match=r"'x' has shape \(3,\), expected \(2,\)"):
        list(encode_tensors({"x": np.zeros(3, np.float32)}, kinds))
    with pytest.raises(CheckpointError, match="'x' is F64, expected F32"):
        list(encode_tensors({"x": np.zeros(2)}, kinds))
    assert encode_dtype(np.dtype(">i4")) == "I32"


def test_a_file_cut_short_under_its_reader_is_seen(tmp_path):
    path = write_tensors(tmp_path / "f", {"a": np.ones(4096, np.float32)})
    file = TensorFile(path)
    with open(path, "r+b") as handle:
        handle.truncate(200)
    with pytest.raises(CheckpointError, match="was cut short while it was being read"):
        file["a"]


@pytest.mark.parametrize("how", ["replace", "unlink"])
def test_a_file_replaced_under_its_reader_is_still_the_old_one(tmp_path, how):
    path = write_tensors(tmp_path / "f", {"a": np.ones(4096, np.float32)})
    file = TensorFile(path)
    if how == "replace":
        write_tensors(tmp_path / "g", {"a": np.zeros(4096, np.float32)}).replace(path)
    else:
        path.unlink()
    assert (file["a"] == 1).all()
