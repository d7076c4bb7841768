"""What a layer keeps is what autograd saves: counted on real learners, tensor by tensor."""

import numpy as np
import pytest
from torch.autograd.graph import saved_tensors_hooks

from hermes import mal
from hermes.interface import Batch, Options, TrainState, find_backend
from hermes.model_info.activations import BYTES_OF, Shape, count_layer_bytes
from hermes.numerics.params import init_weights
from hermes.recipe import Recipe

VARIANTS = {
    "llama": "",
    "grouped": "block.attention.num_kv_heads=2",
    "layernorm": "block.norm=layernorm",
    "gelu": "block.ffn.activation=gelu",
    "relu": "block.ffn.activation=relu",
    "relu2": "block.ffn.activation=relu2",
    "geglu": "block.ffn.activation=geglu",
    "bias": "block.attention.bias=all",
    "post": "block.norm_position=post",
    "sandwich": "block.norm_position=sandwich",
    "qk_norm": "block.attention.qk_norm=head",
    "window": "block.attention.window_size=7",
    "parallel": "block.parallel=true",
    "no positions": "block.attention.position_encoding=none",
    "capped": "block.attention.softcap=30",
    "capped, grouped": "block.attention.softcap=30 block.attention.num_kv_heads=2",
    "capped, qk_norm": "block.attention.softcap=30 block.attention.qk_norm=head",
    "capped, no positions": "block.attention.softcap=30 block.attention.position_encoding=none",
}
# Sizes that no other is a product of, so that no tensor is mistaken for another.
TEXT = """
attention a { num_heads: 4 num_kv_heads: 4 head_dim: 20 }
ffn f { hidden_dim: 168 activation: swiglu }
block b { attention: a ffn: f norm: rmsnorm { eps: 1e-5 } }
model m { vocab_size: 101 max_seq_len: 36 hidden_size: 56 num_layers: 1 block: b }
"""


def make_spec(layers, edit=""):
    edits = dict(one.split("=") for one in edit.split())
    return mal.edit_all(mal.load(TEXT), {"num_layers": str(layers), **edits})


def make_learner(backend, spec, **options):
    weights = init_weights(spec, 0)
    options = Options(device="cpu", **options)
    return find_backend(backend).learner(spec, TrainState(weights, {}, {}, 0), Recipe(), options)


def make_batch(spec, B, A=1):
    ids = np.random.default_rng(0).integers(0, spec.vocab_size, (A, B, spec.max_seq_len + 1))
    ids = ids.astype(np.int32)
    rows = np.arange(A * B, dtype=np.uint32).reshape(A, B)
    return Batch(ids[..., :-1], ids[..., 1:].copy(), rows)


def count_saved(spec, batch_size, precision):
    """Bytes of the storages that autograd saves in a forward pass, parameters and tables aside."""
    learner, batch = make_learner("torch", spec, precision=precision), make_batch(spec, batch_size)
    runtime = learner.runtime
    runtime.tables.prepare(spec.max_seq_len)
    tables = [table for pair in runtime.tables.angles.values() for table in pair]
    own = {t.untyped_storage().data_ptr() for t in (*runtime.module.parameters(), *tables)}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        layout = runtime.find_targets(batch.targets[0])
        arrays = runtime.to_device(batch.tokens[0]), runtime.to_device(batch.targets[0])
        loss, _ = learner._objective(*arrays, layout, None, None, None, None)
    loss.backward()
    return sum(size for size, _ in saved.values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_layer_keeps_what_autograd_saves(variant):
    one, two = (make_spec(layers, VARIANTS[variant]) for layers in (1, 2))
    for precision in ("float32", "bfloat16"):
        for batch_size in (1, 2):
            found = count_saved(two, batch_size, precision) - count_saved(
                one, batch_size, precision
            )
            shape = Shape(batch_size, 36, activation=BYTES_OF[precision])
            counted = count_layer_bytes(one.layers[0], one.hidden_size, shape).kept
            assert counted == found, (precision, batch_size)
