"""A small corpus, and runs on it in a folder of their own."""

import pytest

from tests.training.support import Runs, corpus_in


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return corpus_in(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def go(corpus, tmp_path):
    return Runs(corpus, tmp_path)
