"""Files of torch.save: only plain tensors come out of them, and no code in them runs."""

import copy
import zipfile
from pathlib import Path

import pytest

from hermes.errors import CheckpointError
from hermes.interop.torch_checkpoint import TorchFile

torch = pytest.importorskip("torch")


def test_code_in_a_file_is_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"model": {}, "trap": Trap()}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match="holds more than tensors and plain values,"):
        TorchFile(tmp_path / "ckpt.pt")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("kind", ["sparse", "nested", "meta"])
def test_a_tensor_that_is_not_plainly_there_is_refused(tmp_path, kind):
    tensor = {
        "sparse": lambda: torch.eye(3).to_sparse(),
        "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "meta": lambda: torch.ones(3, device="meta"),
    }[kind]()
    torch.save({"model": {"a": tensor}}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=r"is not a plain dense tensor|holds more than"):
        TorchFile(tmp_path / "ckpt.pt")


def test_what_torch_did_not_write_is_refused(tmp_path):
    for data in (b"", b"garbage", b"\x80\x02]q\x00."):
        (tmp_path / "ckpt.pt").write_bytes(data)
        with pytest.raises(CheckpointError, match=r"is not in the format of torch\.save"):
            TorchFile(tmp_path / "ckpt.pt")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1], "does not hold a dict by name, so no model that hermes reads"),
        ({"model": {"a": 1}}, "is not a dict of tensors: 'a' is not a tensor"),
        ({"model": {}}, "is not a dict of tensors: it is empty"),
        ({"model": 5}, "'model' is 5 and not a dict of tensors"),
        ({"model": None}, "'model' is null and not a dict of tensors"),
        ({"model": [1]}, "'model' is a list and not a dict of tensors"),
        ({"model": {1: torch.ones(2)}}, "1 is the name of a tensor and not a text"),
    ],
)
def test_a_file_that_is_no_model_is_refused(tmp_path, content, sentence):
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=sentence):
        TorchFile(tmp_path / "ckpt.pt")


@pytest.mark.filterwarnings("ignore")  # torch deprecates quantized tensors
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: torch.ones(3, dtype=torch.complex64).conj(), "has dtype torch.complex64, which"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "torch.qint8, whi"),
        (lambda: torch.ones(3).to(torch.float8_e4m3fn), "has dtype torch.float8_e4m3fn, which"),
        (lambda: torch.ones(1).expand(10**12), "and only 4 bytes in the file: it was expanded"),
        (lambda: torch.ones(1).expand(2**40, 2**22), "and only 4 bytes in the file"),
        (lambda: torch.ones(3).as_strided((4,), (0,)), "and only 12 bytes in the file"),
    ],
)
def test_a_tensor_without_an_array_is_refused_when_it_is_read(tmp_path, make, sentence):
    """And not before: a buffer that no model reads may be anything."""
    torch.save({"model": {"a": make(), "b": torch.ones(4, 5).T}}, tmp_path / "ckpt.pt")
    file = TorchFile(tmp_path / "ckpt.pt")
    assert file["b"].shape == (5, 4)
    with pytest.raises(CheckpointError, match=f"ckpt.pt: 'a' .*{sentence}") as refused:
        file["a"]
    assert "\n" not in str(refused.value)


def test_an_archive_that_inflates_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "ckpt.pt"
    torch.save({"model": {"a": torch.ones(4)}}, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ckpt/data/1", bytes(1 << 26))
    with pytest.raises(CheckpointError, match="has compressed entries"):
        TorchFile(path)


def test_an_archive_whose_entries_overlap_is_refused(tmp_path):
    path = tmp_path / "ckpt.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ckpt/data/0", bytes(1 << 20))
        for number in range(1, 99):  # the same bytes by another name
            other = copy.copy(archive.infolist()[0])
            other.filename = f"ckpt/data/{number}"
            archive.filelist.append(other)
    with pytest.raises(CheckpointError, match=r"bytes and entries of 103,\d+,\d+, unlike"):
        TorchFile(path)


def test_a_flipped_bit_of_a_weight_is_refused_by_its_entry(tmp_path):
    path = tmp_path / "ckpt.pt"
    torch.save({"model": {"a": torch.full((64,), 2.5)}}, path)
    data = bytearray(path.read_bytes())
    data[data.index(b"\x00\x00\x20\x40" * 64) + 100] ^= 4
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"ckpt\.pt is damaged: its entry 'ckpt/data/0'"):
        TorchFile(path)


def test_a_torn_file_is_refused(tmp_path):
    path = tmp_path / "ckpt.pt"
    torch.save({"model": {"a": torch.ones(1000)}}, path)
    data = path.read_bytes()
    for size in (0, 10, len(data) // 2, len(data) - 5):
        path.write_bytes(data[:size])
        wrong = r"is incomplete, or not PyTorch's|is not in the format of torch"
        with pytest.raises(CheckpointError, match=wrong):
            TorchFile(path)
    path.unlink()
