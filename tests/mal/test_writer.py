"""The canonical form: one spelling, fixed order, defaults left out."""

import pytest

from hermes import mal
from hermes.errors import SpecError

EVERYTHING = """\
attention near {
  num_heads: 8
  num_kv_heads: 2
  head_dim: 16
  bias: true
  dropout: 0.1
  causal: false
  window_size: 128
  position_encoding: rope {
    theta: 500000
    scaling: llama3 {
      factor: 8
      low_freq_factor: 1
      high_freq_factor: 4
      original_max_seq_len: 8192
    }
    rotary_dim: 8
  }
  qk_norm: head
  softcap: 50
  scale: 0.125
}

attention far {
  num_heads: 8
  bias: qkv
  position_encoding: none
}

ffn wide {
  hidden_dim: 256
  activation: silu
  gate: true
  bias: true
  dropout: 0.05
  limit: 7
  alpha: 1.702
}

ffn plain { }

block local {
  attention: near
  ffn: wide
  norm: layernorm { eps: 1e-6  bias: false }
  norm_position: sandwich
  residual: false
  dropout: 0.25
}

block global {
  attention: far
  ffn: plain
  norm: rmsnorm { unit_offset: true }
  parallel: true
  residual_scale: 0.22
  shared_norm: true
}

model everything {
  description: "All of it,\\n\\"quoted\\"."
  vocab_size: 1000
  max_seq_len: 512
  hidden_size: 128
  num_layers: 4
  pattern: [local, local, global, { attention { num_heads: 4 }  norm: none }]
  embeddings { tie_weights: true  dropout: 0.1  scale: 11.313708498984761 }
  output {
    bias: true
    norm: layernorm { eps: 1e-6  weight: false }
    softcap: 30
    scale: 0.0625
  }
}
"""


def test_the_canonical_form_of_every_key():
    assert mal.dumps(mal.loads(EVERYTHING)) == EVERYTHING


def test_other_spellings_and_orders_are_written_in_the_canonical_one():
    spec = mal.loads(
        "model m { depth: 2, block: b, d_model: 64.  } block b { attention: a }".replace(".", "")
        + " attention a { bias: false, dropout: 0.0, n_heads: 4, position_encoding: rope { base:"
        " 1.0e4 } window_size: none qk_norm: true }"
    )
    assert mal.dumps(spec) == (
        "attention a {\n  num_heads: 4\n  qk_norm: head\n}\n\n"
        "block b {\n  attention: a\n}\n\n"
        "model m {\n  hidden_size: 64\n  num_layers: 2\n  block: b\n}\n"
    )


def test_parts_without_a_name_stay_inline():
    text = (
        "model m {\n  hidden_size: 64\n"
        "  block { attention { num_heads: 4 }  ffn { hidden_dim: 8 }  norm: none }\n}\n"
    )
    assert mal.dumps(mal.loads(text)) == text


def test_a_long_pattern_is_broken_over_lines():
    blocks = ["a_long_name_of_a_block"] * 10
    text = (
        "attention x { num_heads: 12 } block a_long_name_of_a_block { attention: x } "
        f"model m {{ pattern: [{', '.join(blocks)}] }}"
    )
    spec = mal.loads(text)
    written = mal.dumps(spec)
    assert max(map(len, written.splitlines())) <= 88
    assert mal.loads(written) == spec


def test_several_models_share_their_definitions():
    text = (
        "attention a {\n  num_heads: 4\n}\n\n"
        "block b {\n  attention: a\n}\n\n"
        "model small {\n  hidden_size: 64\n  block: b\n}\n\n"
        "model large {\n  hidden_size: 128\n  block: b\n}\n"
    )
    assert mal.dumps(*mal.read_mal(text).models.values()) == text


def test_two_meanings_of_one_name_cannot_stand_in_one_file():
    small, large = mal.load("gpt2-small"), mal.load("gpt2-medium")
    message = "two different block definitions are both named 'gpt2_block'"
    with pytest.raises(SpecError, match=message):
        mal.dumps(small, large)
    with pytest.raises(SpecError, match="two models are both named 'gpt2-small'"):
        mal.dumps(small, small)
