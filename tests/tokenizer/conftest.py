"""A tokenizer, and one of each preset."""

import pytest

from hermes.tokenizer import train_tokenizer
from hermes.tokenizer.bytelevel import PRESETS
from tests.tokenizer.support import TEXT


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT], vocab_size=380)


@pytest.fixture(scope="module", params=list(PRESETS))
def preset(request):
    return train_tokenizer([TEXT], vocab_size=380, preset=request.param)
