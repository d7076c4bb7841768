"""Files that would run code or leave their folder: refused, or read as what they are.

While each is read, Python's audit hooks are listened to: nothing is started, connected to, deleted
or unpickled, and no file of Python's beside it is opened.
"""

import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hermes.checkpoint import open_checkpoint
from hermes.data import read_records
from hermes.data.document_reader import read_documents
from hermes.data.example_cache import _read_examples
from hermes.data.prepared import open_prepared
from hermes.errors import HermesError
from hermes.finetuning.reference_logprobs import Reference
from hermes.interop.convert import convert
from hermes.interop.open_model import open_model
from hermes.storage.strict_yaml import read_text_mapping, read_value_mapping
from hermes.tokenizer import Tokenizer
from hermes.training.run_yaml import read_setting
from tests.audited import list_opened, list_outward, listening
from tests.finetuning.support import small_checkpoint

torch = pytest.importorskip("torch")


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder of Hugging Face's that opens."""
    folder = tmp_path_factory.mktemp("sound")
    convert(small_checkpoint(folder / "run"), folder / "hf", to="hf")
    return folder / "hf"


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "model")


@pytest.fixture
def sprung(tmp_path):
    return tmp_path / "sprung"


def replace_weights(folder, name, data):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(data)
    return open_model, folder


def save_with_torch(value, *, legacy=False):
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def save_arrays(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def zip_files(**files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def alone(path, data, read):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return read, path


def make_adapter(folder, data):
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    return replace_weights(folder, "adapter_model.bin", data)


YAML = "lr: !!python/object/apply:pathlib.Path.touch ['{0}']\n"
LAYOUT = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  '
TENSORS = len(LAYOUT).to_bytes(8, "little") + LAYOUT + bytes(4)
REFUSED = {
    "a pickle as safetensors": lambda f, trap: replace_weights(
        f, "model.safetensors", pickle.dumps(trap)),
    "a pickle as .bin": lambda f, trap: replace_weights(
        f, "pytorch_model.bin", pickle.dumps(trap)),
    "an old file of torch's": lambda f, trap: replace_weights(
        f, "pytorch_model.bin", save_with_torch({"a": trap}, legacy=True)),
    "a new file of torch's": lambda f, trap: replace_weights(
        f, "pytorch_model.bin", save_with_torch({"a": trap})),
    "a .pt": lambda f, trap: alone(f / "a.pt", save_with_torch({"model": trap}), open_model),
    "a .pth": lambda f, trap: alone(f / "a.pth", save_with_torch({"model": trap}), open_model),
    "a .ckpt": lambda f, trap: alone(f / "a.ckpt", save_with_torch(trap), open_model),
    "an archive as safetensors": lambda f, trap: replace_weights(
        f, "model.safetensors", zip_files(**{"a/data.pkl": pickle.dumps(trap)})),
    "tensors with an archive behind": lambda f, trap: replace_weights(
        f, "model.safetensors", TENSORS + zip_files(**{"a/data.pkl": pickle.dumps(trap)})),
    "GGUF": lambda f, trap: alone(f / "a.gguf", b"GGUF\x03\0\0\0" + bytes(99), open_model),
    "GGUF as safetensors": lambda f, trap: replace_weights(
        f, "model.safetensors", b"GGUF\x03\0\0\0" + bytes(99)),
    "arrays of objects as weights": lambda f, trap: alone(
        f / "a.npz", save_arrays(a=np.array([trap], object)), open_model),
    "arrays of objects as a reference": lambda f, trap: alone(
        f / "reference.npz", save_arrays(logprobs=np.array([trap], object), about=np.zeros(2)),
        Reference.load),
    "arrays as data": lambda f, trap: alone(
        f / "a.npy", save_arrays(a=np.array([trap], object)), lambda p: list(read_documents(p))),
    "an archive as data": lambda f, trap: alone(
        f / "a.zip", zip_files(a="text"), lambda p: list(read_documents(p))),
    "a pickle as records": lambda f, trap: alone(
        f / "a.jsonl", pickle.dumps(trap), lambda p: list(read_records(p))),
    "a pickle as Parquet": lambda f, trap: alone(
        f / "a.parquet", pickle.dumps(trap), lambda p: list(read_records(p))),
    "a pickle as a tokenizer": lambda f, trap: alone(
        f / "tokenizer.json", pickle.dumps(trap), Tokenizer.load),
    "a pickle as SentencePiece": lambda f, trap: alone(
        f / "tokenizer.model", pickle.dumps(trap), Tokenizer.load),
    "a pickle as a manifest": lambda f, trap: (
        open_prepared, alone(f / "manifest.json", pickle.dumps(trap), None)[1].parent),
    "tags in YAML": lambda f, trap: alone(f / "a.yaml", YAML.format(trap.path), read_text_mapping),
    "tags in YAML with values": lambda f, trap: alone(
        f / "b.yaml", YAML.format(trap.path), read_value_mapping),
    "tags in run.yaml": lambda f, trap: (
        lambda p: read_setting(p.parent, "lr"),
        alone(f / "run.yaml", YAML.format(trap.path), None)[1]),
    "a pickle as a checkpoint's progress": lambda f, trap: (
        lambda p: open_checkpoint(p.parent),
        alone(small_checkpoint(f / "run") / "progress.json", pickle.dumps(trap), None)[1]),
    "a pickle as an adapter": lambda f, trap: make_adapter(f, pickle.dumps(trap)),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_would_run_code_is_refused_and_runs_none(kind, folder, sprung):
    read, path = REFUSED[kind](folder, Trap(sprung))
    with listening() as events, pytest.raises(HermesError) as refused:
        read(path)
    assert "\n" not in str(refused.value)
    assert list_outward(events) == []
    assert not sprung.exists()


def leave_code(folder, sprung):
    """Files of Python's that other tools run, and pickles that they load, beside a model."""
    code = f"from pathlib import Path\nPath({str(sprung)!r}).touch()\n"
    for name in ("modeling_x.py", "tokenization_x.py", "__init__.py", "conftest.py", "json.py"):
        (folder / name).write_text(code)
    for name in ("optimizer.pt", "training_args.bin", "scheduler.pt", "rng_state.pth"):
        (folder / name).write_bytes(pickle.dumps(Trap(sprung)))
    for name, maps in (
        ("config.json", {"AutoConfig": "modeling_x.C", "AutoModelForCausalLM": "modeling_x.M"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["tokenization_x.T", None]}),
    ):
        facts = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(facts | {"auto_map": maps}))


def test_code_beside_a_model_is_neither_run_nor_opened(folder, sprung):
    leave_code(folder, sprung)
    with listening() as events:
        model = open_model(folder)
        _ = model.params["model.norm.weight"]
        Tokenizer.load(folder).encode("the cat")
    assert list_outward(events) == []
    assert not sprung.exists()
    own = [Path(name) for name in list_opened(events) if name.startswith(str(folder))]
    assert own
    assert not [path for path in own if path.suffix in (".py", ".pt", ".pth", ".bin", ".pyc")]


def test_kept_examples_that_hold_objects_are_made_anew(tmp_path, sprung):
    path = tmp_path / "examples.npz"
    path.write_bytes(save_arrays(lengths=np.array([Trap(sprung)], object)))
    with listening() as events:
        assert _read_examples(path, ()) is None
    assert list_outward(events) == []
    assert not sprung.exists()


def test_what_is_listened_to_is_heard(tmp_path, sprung):
    """The same traps, by readers that spring them."""
    with listening() as events:
        pickle.loads(pickle.dumps(Trap(sprung)))
    assert "pickle.find_class" in [name for name, _ in list_outward(events)]
    assert sprung.exists()
