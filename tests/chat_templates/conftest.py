"""Fixtures of the tests of chat templates."""

import pytest

from tests.chat_templates.support import chat_tokenizer


@pytest.fixture
def tokenizer():
    return chat_tokenizer()
