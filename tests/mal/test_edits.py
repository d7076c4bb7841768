"""Edits of single fields, as --set model.KEY=VALUE asks for them."""

import pytest

from hermes import mal
from hermes.errors import SpecError
from hermes.spec import LayerNorm, LinearScaling, OutputSpec, RMSNorm, Rope

NANO = mal.load("nano")
MIXED = mal.loads(
    """
    attention wide { num_heads: 4 }
    attention near { num_heads: 4  window_size: 8 }
    block global { attention: wide }
    block local { attention: near }
    model m { num_layers: 4  pattern: [local, local, global] }
    """
)


@pytest.mark.parametrize(
    ("path", "value", "get", "expected"),
    [
        ("num_layers", "6", lambda s: s.num_layers, 6),
        ("depth", "6", lambda s: s.num_layers, 6),
        ("hidden_size", "128", lambda s: s.hidden_size, 128),
        ("description", '"other"', lambda s: s.description, "other"),
        ("embeddings.tie_weights", "true", lambda s: s.embeddings.tie_weights, True),
        ("embeddings.scale", "8", lambda s: s.embeddings.scale, 8.0),
        ("output", "{ softcap: 30 }", lambda s: s.output, OutputSpec(softcap=30.0)),
        ("output.softcap", "30", lambda s: s.output.softcap, 30.0),
        ("output.norm", "layernorm", lambda s: s.output.norm, LayerNorm()),
        ("block.attention.num_heads", "4", lambda s: s.blocks[0].attention.num_heads, 4),
        ("block.attention.n_heads", "4", lambda s: s.blocks[0].attention.num_heads, 4),
        ("block.attention.window_size", "none", lambda s: s.blocks[0].attention.window_size, None),
        ("block.nano_block.dropout", "0.5", lambda s: s.blocks[0].dropout, 0.5),
        ("block.norm.eps", "1e-6", lambda s: s.blocks[0].norm, RMSNorm(1e-6)),
        ("block.norm", "layernorm { eps: 1e-6 }", lambda s: s.blocks[0].norm, LayerNorm(1e-6)),
        ("block.ffn", "{ hidden_dim: 8 }", lambda s: s.blocks[0].ffn.hidden_dim, 8),
        (
            "block.attention.position_encoding.theta",
            "5e5",
            lambda s: s.blocks[0].attention.position_encoding,
            Rope(theta=5e5),
        ),
        (
            "block.attention.position_encoding.scaling",
            "linear { factor: 2 }",
            lambda s: s.blocks[0].attention.position_encoding,
            Rope(scaling=LinearScaling(2.0)),
        ),
    ],
)
def test_an_edit_changes_its_field_and_nothing_else(path, value, get, expected):
    edited = mal.edit(NANO, path, value)
    assert get(edited) == expected
    before = {line.strip() for line in mal.dumps(NANO).splitlines()}
    after = {line.strip() for line in mal.dumps(edited).splitlines()}
    assert len(before - after) <= 5


def test_an_edit_of_block_reaches_every_block_of_a_pattern():
    edited = mal.edit(MIXED, "block.attention.num_heads", "2")
    assert [block.attention.num_heads for block in edited.blocks] == [2, 2, 2]
    assert [block.attention.window_size for block in edited.blocks] == [8, 8, None]


def test_an_edit_of_a_named_block_reaches_that_block_alone():
    edited = mal.edit(MIXED, "block.local.attention.window_size", "16")
    assert [block.attention.window_size for block in edited.blocks] == [16, 16, None]


def test_a_pattern_is_edited_by_the_names_of_its_blocks():
    edited = mal.edit(MIXED, "pattern", "[global, local]")
    assert [block.name for block in edited.blocks] == ["global", "local"]
    assert mal.edit(MIXED, "block", "local").blocks == (MIXED.blocks[0],)


def test_edits_together_only_have_to_hold_together():
    with pytest.raises(SpecError, match="num_heads is 2, which does not divide hidden_size 81"):
        mal.edit(NANO, "hidden_size", "81")
    changes = {"hidden_size": "81", "block.attention.num_heads": "3", "num_layers": "1"}
    changes["block.attention.position_encoding"] = "none"
    edited = mal.edit_all(NANO, changes)
    assert (edited.hidden_size, edited.blocks[0].attention.num_heads) == (81, 3)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "num_layer",
            "2",
            "num_layer: unknown key 'num_layer' in model; did you mean 'num_layers'?",
        ),
        (
            "block.atention.num_heads",
            "2",
            "block.atention.num_heads: unknown key 'atention' in block; did you mean 'attention'?, "
            "and the model has no such block",
        ),
        ("num_layers", "two", "num_layers='two': num_layers takes an integer, got 'two'"),
        ("num_layers", "2 3", "num_layers='2 3': expected one value, found '3'"),
        ("num_layers", "", "num_layers='': expected a value of 'num_layers', found the end"),
        ("num_layers.x", "2", "num_layers.x: num_layers has no keys of its own, so no 'x'"),
        (
            "output.norm.eps",
            "1e-6",
            "output.norm.eps: this output has no norm, whose eps could change; set norm as a whole",
        ),
        (
            "block.attention.num_heads",
            "5",
            "block.attention.num_heads='5': num_heads is 5, which does not divide hidden_size 64; "
            "choose another or set head_dim",
        ),
        (
            "block.attention",
            "other",
            "block.attention='other': attention 'other' is not defined; defined are nano_attention",
        ),
        ("name", '"x"', "name: unknown key 'name' in model"),
    ],
)
def test_an_edit_that_cannot_be_says_why(path, value, message):
    with pytest.raises(SpecError) as caught:
        mal.edit(NANO, path, value)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
