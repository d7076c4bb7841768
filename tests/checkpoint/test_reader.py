"""Reading: tensors outlive their folder, and every format is read for ever."""

import re
from pathlib import Path

from hermes.checkpoint import (
    find_newest,
    open_checkpoint,
    save,
)
from tests.checkpoint import make_fixture
from tests.checkpoint.support import (
    require_equal,
    save_at,
)


def test_lazy_tensors_outlive_the_folder(tmp_path):
    """Deleted or replaced under its reader, a checkpoint still gives what was saved."""
    path = save_at(tmp_path, 1)
    checkpoint = open_checkpoint(path)
    for file in path.iterdir():
        file.unlink()
    require_equal(checkpoint, 1)


def test_the_first_format_is_read_for_ever():
    checkpoint = find_newest(V1).checkpoint
    spec, state = make_fixture.state()
    assert checkpoint.manifest.version == 1
    assert checkpoint.spec == spec
    assert checkpoint.progress == make_fixture.progress()
    assert checkpoint.companions == make_fixture.companions()
    for kind in ("params", "exp_avg", "exp_avg_sq"):
        for name, tensor in getattr(state, kind).items():
            assert (getattr(checkpoint.state, kind)[name] == tensor).all()


def test_the_first_format_is_what_is_written_until_there_is_a_second(tmp_path):
    """Where this fails and nothing was meant to change, files of today are not those of before."""
    spec, state = make_fixture.state()
    path = save(
        tmp_path,
        state,
        spec=spec,
        progress=make_fixture.progress(),
        companions=make_fixture.companions(),
    )
    for file in sorted(path.glob("*.safetensors")):
        assert file.read_bytes() == (V1 / path.name / file.name).read_bytes()
    text = (path / "manifest.json").read_text()
    assert re.search(r'"version": 1,\n  "sha256": "[0-9a-f]{64}"\n}\n\Z', text)


V1 = Path(__file__).parent / "fixtures" / "v1"
