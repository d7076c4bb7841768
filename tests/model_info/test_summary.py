"""The lines of `hermes info` that say what a model's parts are."""

from hermes import mal
from hermes.model_info.summary import format_shape

TEXT = """
attention a { num_heads: 4 }
block look { attention: a  ffn: none  norm: layernorm { weight: false }  residual_scale: 0.22 }
block think { attention: none  ffn { hidden_dim: 64  limit: 7  alpha: 1.702  bias: true } }
block both { attention: a  parallel: true  shared_norm: true  norm: rmsnorm { weight: false } }
model m {
  hidden_size: 64
  num_layers: 4
  pattern: [2 x look, think, both]
  embeddings { scale: 2  norm: layernorm }
  output { scale: 0.25 }
}
"""


def test_every_part_is_said_in_words():
    lines = [" ".join(line.split()) for line in format_shape(mal.loads(TEXT))]
    assert lines[4:] == [
        "layers 0-1",
        "heads 4, 16 wide",
        "positions rope { theta: 10000 }",
        "feed-forward none",
        "norm layernorm, eps 1e-5, no weight or bias, before each sublayer",
        "block residual scale 0.22",
        "layer 2",
        "attention none",
        "feed-forward 64 wide, gated silu, clamped to 7, alpha 1.702, bias",
        "norm rmsnorm, eps 1e-5, before each sublayer",
        "layer 3",
        "heads 4, 16 wide",
        "positions rope { theta: 10000 }",
        "feed-forward 256 wide, gated silu",
        "norm rmsnorm, eps 1e-5, no weight, before each sublayer",
        "block attention and feed-forward in parallel, which share their norm",
        "head untied, logits scaled by 0.25",
        "embeddings scaled by 2, layernorm, eps 1e-5",
    ]
