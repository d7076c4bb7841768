"""Of a run, "auto" is chosen once, for the device it starts on, and kept from then on."""

import pytest

from hermes.interface import DeviceInfo, Options, find_backend
from hermes.training.run_precision import choose_run_precision
from hermes.training.run_yaml import read_sessions, read_setting


@pytest.fixture
def gpu(monkeypatch):
    """torch's CPU is said to be a GPU with bfloat16, as long as the test wants it."""
    kind = type(find_backend("torch"))

    def plug(device):
        monkeypatch.setattr(kind, "describe_device", lambda self, name: device)

    return plug


def test_a_run_keeps_the_precision_of_the_device_it_started_on(go, gpu):
    gpu(DeviceInfo("cuda", "NVIDIA H200", (9, 0)))
    run = go.folder / "run"
    go(max_steps=1)
    assert read_setting(run, "precision") == "bfloat16"
    gpu(DeviceInfo("cpu"))
    go(max_steps=2, resume=True)
    (run / "run.yaml").unlink()  # the checkpoint knows it, too
    go(max_steps=3, resume=True, backend="mlx")
    assert [one.precision for one in read_sessions(run)] == ["bfloat16"]
    go(max_steps=4, resume=True, precision="float32")
    assert read_setting(run, "precision") == "float32"
    gpu(DeviceInfo("cuda", "NVIDIA H200", (9, 0)))
    notes = go(max_steps=5, resume=True).notes
    assert read_setting(run, "precision") == "float32"
    assert any(note.startswith("float32 on NVIDIA H200: ") for note in notes)


def test_a_new_run_is_the_devices_whatever_lies_in_its_folder(tmp_path, gpu):
    (tmp_path / "run.yaml").write_text("precision: bf16\n")
    values = {"precision": "auto", "output": tmp_path, "resume": False, "device": None}
    torch = find_backend("torch")
    assert choose_run_precision(values, torch) == "float32"
    assert choose_run_precision(values | {"resume": True}, torch) == "bfloat16"
    (tmp_path / "run.yaml").write_text("precision: auto\n")
    assert choose_run_precision(values | {"resume": True}, torch) == "float32"


def test_options_of_a_backend_are_explicit():
    with pytest.raises(Exception, match=r"^precision is 'auto'; it must be one of float32"):
        Options(precision="auto")
