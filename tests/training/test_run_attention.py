"""A run says when it starts where no kernel has what its attention asks for."""

from types import SimpleNamespace

import pytest

from hermes.interface import find_backend
from hermes.recipe import Preference, Recipe
from hermes.training.run_attention import describe_attention

SAID = "attention moves tensors of every query and key"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, {"has_segments": False, "has_dropout": True}),
        ({"document_mask": True}, {"has_segments": True, "has_dropout": True}),
    ],
)
def test_a_start_shows_what_the_backend_says_of_attention(go, monkeypatch, more, expected):
    asked = []

    def describe(self, spec, options, **what):
        asked.append(what)
        return SAID

    monkeypatch.setattr(type(find_backend("torch")), "describe_attention", describe)
    result = go(max_steps=1, device="cpu", dry_run=True, **more)
    assert SAID in result.notes
    assert asked == [expected]


def describe(backend, recipe, pack=False):
    components = SimpleNamespace(
        spec=None,
        recipe=recipe,
        training_data=SimpleNamespace(dataset=SimpleNamespace(pack=pack)),
    )
    return describe_attention(SimpleNamespace(backend=backend, options=None), components)


def test_packed_conversations_have_documents_and_pairs_no_dropout():
    backend = SimpleNamespace(describe_attention=lambda spec, options, **what: f"{what}")
    pairs = Recipe(objective="preference", preference=Preference())
    assert describe(backend, Recipe(), pack=True) == (
        "{'has_segments': True, 'has_dropout': True}",
    )
    assert describe(backend, pairs) == ("{'has_segments': False, 'has_dropout': False}",)


def test_a_backend_may_have_nothing_to_say():
    assert describe(SimpleNamespace(), Recipe()) == ()
    silent = SimpleNamespace(describe_attention=lambda *given, **what: None)
    assert describe(silent, Recipe()) == ()
