"""What a layer keeps is what autograd saves: counted on real learners, tensor by tensor."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.graph import saved_tensors_hooks

from hermes import mal
from hermes.interface import Batch, Options, TrainState, find_backend
from hermes.model_info.activations import BYTES_OF, count_layer_bytes
from hermes.model_info.layer_shape import Shape
from hermes.model_info.training_memory import describe_training
from hermes.numerics.frozen import list_frozen_matrices
from hermes.numerics.lora import init_adapters, list_trainable
from hermes.numerics.params import init_weights, list_parameters
from hermes.recipe import Lora, Recipe
from tests.backends.torch.attention_support import FLEX, VARLEN, take_cuda_kernels

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
    "alibi": "block.attention.position_encoding=alibi",
    "alibi, grouped": "block.attention.position_encoding=alibi block.attention.num_kv_heads=2",
    "values": "block.attention.v_head_dim=8",
    "sinks": "block.attention.sinks=true",
    "gate": "block.attention.output_gate=true",
    "clip": "block.attention.clip_qkv=3",
    "limit": "block.ffn.limit=7 block.ffn.alpha=1.7",
    "dropout": "block.dropout=0.1 block.ffn.dropout=0.1",
    "attention dropout": "block.attention.dropout=0.1",
    "capped, no positions": "block.attention.softcap=30 block.attention.position_encoding=none",
}
WHOLE = Recipe()
RECIPES = {
    "documents": Recipe(document_mask=True),
    "lora": Recipe(lora=Lora(rank=3)),
    "lora, dropout": Recipe(lora=Lora(rank=3, dropout=0.1)),
    "dora": Recipe(lora=Lora(rank=3, dora=True)),
    "lora of two": Recipe(lora=Lora(rank=3, targets=("q_proj", "v_proj"))),
    "lora of outputs": Recipe(lora=Lora(rank=3, targets=("o_proj", "down_proj"))),
    "no feed-forward": Recipe(freeze=("*mlp*",)),
    "no attention": Recipe(freeze=("*self_attn*",)),
    "no norms": Recipe(freeze=("*norm*",)),
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


def make_learner(backend, spec, recipe=WHOLE, **options):
    weights = init_weights(spec, 0)
    if recipe.lora:
        weights = {**weights, **init_adapters(spec, recipe.lora, 0, weights)}
    state = TrainState(weights, {}, {}, 0, can_reread=True)
    return find_backend(backend).learner(spec, state, recipe, Options(device="cpu", **options))


def make_batch(spec, B, A=1):
    ids = np.random.default_rng(0).integers(0, spec.vocab_size, (A, B, spec.max_seq_len + 1))
    ids = ids.astype(np.int32)
    rows = np.arange(A * B, dtype=np.uint32).reshape(A, B)
    return Batch(ids[..., :-1], ids[..., 1:].copy(), rows)


def count_saved(spec, batch_size, precision, recipe=WHOLE):
    """Bytes of the storages that autograd saves in a forward pass, parameters and tables aside."""
    learner = make_learner("torch", spec, recipe, precision=precision)
    batch, runtime = make_batch(spec, batch_size), learner.runtime
    runtime.tables.prepare(spec.max_seq_len)
    tables = [table for pair in runtime.tables.angles.values() for table in pair]
    own = {t.untyped_storage().data_ptr() for t in (*runtime.module.parameters(), *tables)}
    saved = {}

    def pack(tensor):
        if isinstance(tensor, FakeTensor):  # FlexAttention is traced, and saves nothing then
            return tensor
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    halves = np.arange(spec.max_seq_len, dtype=np.int32) // (spec.max_seq_len // 2)
    segments = np.tile(halves, (batch_size, 1)) if recipe.document_mask else None
    keys = torch.arange(batch_size, dtype=torch.int32)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        layout = runtime.find_targets(batch.targets[0])
        arrays = runtime.to_device(batch.tokens[0]), runtime.to_device(batch.targets[0])
        where = runtime.load_segments(segments)
        loss, _ = learner._objective(*arrays, layout, *where, keys, None)
    loss.backward()
    return sum(size for size, _ in saved.values())


def check_counts(recipe, edit="", *, precisions=("float32", "bfloat16"), **kernels):
    """What a second layer adds, on real learners and by the count. kernels: as Shape has them."""
    one, two, three = (make_spec(layers, edit) for layers in (1, 2, 3))
    trained = set(list_trainable(one, recipe))
    table = list_parameters(one)
    for precision in precisions:
        for batch_size in (1, 2):
            found = count_saved(three, batch_size, precision, recipe) - count_saved(
                two, batch_size, precision, recipe
            )
            shape = Shape(batch_size, 36, activation=BYTES_OF[precision],
                          document_mask=recipe.document_mask, **kernels)  # fmt: skip
            training = describe_training(trained, 0, recipe)
            counted = count_layer_bytes(one.layers[0], one.hidden_size, shape, training).kept
            # Frozen matrices are held in bfloat16 and not copied, but for those that DoRA measures.
            if precision == "bfloat16" and not (recipe.lora and recipe.lora.dora):
                frozen = list_frozen_matrices(one, recipe)
                counted -= 2 * sum(table[n].size for n in frozen if ".layers." in n)
            assert counted == found, (precision, batch_size)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_layer_keeps_what_autograd_saves(variant):
    check_counts(WHOLE, VARIANTS[variant])


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_layer_that_is_frozen_in_part_keeps_less(recipe):
    check_counts(RECIPES[recipe])


FUSED = ("attention dropout", "sinks", "window")
MORE_FUSED = ("capped, grouped", "alibi", "capped, qk_norm", "documents")


@pytest.mark.parametrize(
    "variant", [*FUSED, *(pytest.param(one, marks=pytest.mark.long) for one in MORE_FUSED)]
)
def test_a_layer_with_the_kernels_of_cuda_keeps_nothing_of_every_query_and_key(
    monkeypatch, variant
):
    take_cuda_kernels(monkeypatch, FLEX)
    recipe = RECIPES[variant] if variant == "documents" else WHOLE
    check_counts(recipe, VARIANTS.get(variant, ""), has_kernels=True)


@pytest.mark.parametrize("variant", ["window", "documents"])
def test_without_the_compiler_documents_and_windows_have_a_kernel_in_bfloat16(monkeypatch, variant):
    take_cuda_kernels(monkeypatch, VARLEN)
    recipe, more = RECIPES.get(variant, WHOLE), {"precisions": ["bfloat16"], "has_kernels": True}
    check_counts(recipe, VARIANTS.get(variant, ""), has_flex=False, **more)


@pytest.mark.parametrize(
    ("variant", "precisions"),
    [("capped", ["bfloat16"]), ("window", ["float32"]), ("documents", ["float32"])],
)
def test_without_the_compiler_the_rest_keeps_every_query_and_key(variant, precisions):
    """The plain kernels of a CPU keep what CUDA's do, where heads are as many."""
    recipe, more = RECIPES.get(variant, WHOLE), {"precisions": precisions, "has_kernels": True}
    check_counts(recipe, VARIANTS.get(variant, ""), has_flex=False, **more)
