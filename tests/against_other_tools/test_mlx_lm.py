"""The outside oracle on MLX: mlx-lm where it is right, and proof of the verdict where it is not."""

import numpy as np
import pytest

from hermes.interop.huggingface.reader_support import EXACT, NOT_EXPRESSIBLE, READERS, judge_readers
from tests.against_other_tools.support import FLOAT32, TOKENS, distance, folder_of, logits_of
from tests.interop.models import MODELS
from tests.interop.other_models import OTHERS

utils = pytest.importorskip("mlx_lm.utils", reason="pip install 'hermes-llm[interop-test]'")
mx = pytest.importorskip("mlx.core")

CASES = [pytest.param(spec, id=name) for name, (_, spec) in (MODELS | OTHERS).items()]


def their_logits(folder):
    with mx.stream(mx.cpu):
        model, _ = utils.load_model(folder)
        return np.array(model(mx.array(TOKENS)).astype(mx.float32))


@pytest.mark.parametrize("spec", CASES)
def test_the_verdict_on_this_reader_is_what_it_does(tmp_path, spec):
    verdict = dict(judge_readers(spec, converted=True))[READERS[2]]
    folder = folder_of(spec, tmp_path)
    if verdict.startswith(NOT_EXPRESSIBLE):
        with pytest.raises((ValueError, TypeError, IndexError, SystemExit)):
            their_logits(folder)
        return
    theirs = their_logits(folder)
    error = distance(logits_of(spec, "numpy"), theirs)
    if verdict == EXACT:
        assert error < FLOAT32
        assert distance(logits_of(spec, "mlx"), theirs) < FLOAT32
    else:
        assert error > FLOAT32
