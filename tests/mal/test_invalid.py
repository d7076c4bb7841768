"""Each mistake has a file, and beside it the error, whole: place, sentence, line and caret."""

from pathlib import Path

import pytest

from hermes import mal
from hermes.errors import MalError

FILES = sorted((Path(__file__).parent / "invalid").glob("*.mal"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_mistake_gets_exactly_its_error(path):
    with pytest.raises(MalError) as caught:
        mal.loads(path.read_bytes(), file=path.name)
    assert f"{caught.value}\n" == path.with_suffix(".txt").read_text(encoding="utf-8")


def test_every_expected_error_has_its_file():
    assert {path.stem for path in FILES} == {
        path.stem for path in (Path(__file__).parent / "invalid").glob("*.txt")
    }
