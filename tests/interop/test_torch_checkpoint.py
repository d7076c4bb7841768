"""Files of torch.save: only plain tensors come out of them, and no code in them runs."""

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
    ],
)
def test_a_file_that_is_no_model_is_refused(tmp_path, content, sentence):
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=sentence):
        TorchFile(tmp_path / "ckpt.pt")


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
