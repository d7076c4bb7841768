"""Which blocks a model's layers are: definitions, patterns, and layers that lack a part."""

import pytest

from hermes import mal
from hermes.errors import SpecError
from hermes.spec import (
    AttentionSpec,
    BlockSpec,
    FfnSpec,
)


def test_definitions_may_be_used_before_they_stand():
    spec = mal.loads(
        "model m { block: b } block b { attention: a  ffn: f } "
        "ffn f { } attention a { num_heads: 4 }"
    )
    assert (spec.blocks[0].name, spec.blocks[0].attention.name) == ("b", "a")
    assert spec.blocks[0].ffn == FfnSpec(name="f")


def test_each_kind_has_names_of_its_own():
    spec = mal.loads(
        "attention x { num_heads: 4 } ffn x { } "
        "block x { attention: x  ffn: x } model x { block: x }"
    )
    assert spec.name == spec.blocks[0].name == spec.blocks[0].ffn.name == "x"


PATTERN = """
attention wide { num_heads: 4 }
attention near { num_heads: 4  window_size: 8 }
block global { attention: wide }
block local { attention: near }
model m { num_layers: 7  %s }
"""


@pytest.mark.parametrize(
    "pattern",
    ["[3 x local, global]", "[ 2 x local  , local, 1 x global, ]", "[03 x local, global]"],
)
def test_a_repeated_block_of_a_pattern_is_written_out(pattern):
    spec = mal.loads(PATTERN % f"pattern: {pattern}")
    assert spec == mal.loads(PATTERN % "pattern: [local, local, local, global]")
    assert "pattern: [local, local, local, global]" in mal.dumps(spec)
    assert mal.edit(spec, "pattern", "[global, 2 x local]").blocks == (
        spec.blocks[3],
        *spec.blocks[:2],
    )


def test_a_layer_may_lack_attention_or_ffn():
    spec = mal.loads(
        "attention a { num_heads: 4 } block look { attention: a  ffn: none } "
        "block think { attention: none } model m { num_layers: 3  pattern: [look, think] }"
    )
    assert spec.blocks == (
        BlockSpec(AttentionSpec(4, name="a"), None, name="look"),
        BlockSpec(None, name="think"),
    )
    assert len(spec.attentions) == 2
    assert mal.dumps(spec) == (
        "attention a {\n  num_heads: 4\n}\n\n"
        "block look {\n  attention: a\n  ffn: none\n}\n\n"
        "block think {\n  attention: none\n}\n\n"
        "model m {\n  num_layers: 3\n  pattern: [look, think]\n}\n"
    )


def test_a_definition_called_none_is_meant_where_there_is_one():
    spec = mal.loads(
        "attention none { num_heads: 4 } model m { block { attention: none  ffn: none } }"
    )
    assert spec.blocks == (BlockSpec(AttentionSpec(4, name="none"), None),)
    assert mal.loads(mal.dumps(spec)) == spec


def test_files_cannot_say_both_none_and_a_definition_of_that_name():
    named = mal.loads("attention none { num_heads: 4 } model m { block { attention: none } }")
    lacking = mal.loads("model n { block { attention: none } }")
    for pair in ((named, lacking), (lacking, named)):
        with pytest.raises(SpecError, match=r"two different attention .* 'none'"):
            mal.dumps(*pair)


def test_a_part_is_taken_away_and_given_back_by_edits():
    spec = mal.loads("model m { block { attention { num_heads: 4 } } }")
    lacking = mal.edit(spec, "block.ffn", "none")
    assert lacking.blocks == (BlockSpec(AttentionSpec(4), None),)
    assert mal.edit(lacking, "block.ffn", "{ }") == spec
    with pytest.raises(SpecError, match="this block has no ffn, whose bias could change; set ffn"):
        mal.edit(lacking, "block.ffn.bias", "true")


def test_a_block_may_be_called_x():
    text = "block x { attention { num_heads: 4 } } model m { num_layers: 3  pattern: [%s] }"
    assert mal.loads(text % "2 x x, x") == mal.loads(text % "x, x, x")


def test_an_inline_block_may_be_repeated():
    spec = mal.loads("model m { pattern: [2 x { attention { num_heads: 4 } }] }")
    assert spec.blocks == 2 * (BlockSpec(AttentionSpec(4)),)


def test_a_pattern_is_cycled_over_the_layers():
    spec = mal.loads(PATTERN % "pattern: [local, local, global]")
    windows = [layer.attention.window_size for layer in spec.layers]
    assert windows == [8, 8, None, 8, 8, None, 8]
    assert [block.name for block in spec.blocks] == ["local", "local", "global"]


def test_a_pattern_may_have_a_trailing_comma_and_inline_blocks():
    spec = mal.loads(PATTERN % "pattern: [local, global, { attention: near },]")
    assert [block.name for block in spec.blocks] == ["local", "global", ""]


def test_a_default_block_beside_a_pattern_that_has_it_changes_nothing():
    alone = mal.loads(PATTERN % "pattern: [local, global]")
    assert mal.loads(PATTERN % "block: global  pattern: [local, global]") == alone
