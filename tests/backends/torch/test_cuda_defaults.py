"""What a CUDA device gets where nobody says otherwise, as far as it can be told without one."""

from types import SimpleNamespace

import pytest
import torch

from hermes.distributed.process_group import RankInfo
from hermes.errors import Unsupported
from hermes.interface import Options, TrainState, find_backend
from hermes.recipe import Recipe
from hermes_torch import fused_attention, inference, sharding, static_rows
from hermes_torch import runtime as runtime_module
from hermes_torch.compiled_evaluation import uses_compile
from hermes_torch.fused_attention import Kernels, find_kernels
from hermes_torch.learner import Learner
from hermes_torch.runtime import Runtime
from tests.backends.support import make_spec, make_weights

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize("is_split", [False, True])
@pytest.mark.parametrize(
    ("device", "wanted", "compiles"),
    [(CUDA, None, True), (CUDA, False, False), (CPU, None, False), (CPU, True, True)],
)
def test_passes_are_compiled_on_cuda_unless_the_options_say_otherwise(
    device, wanted, compiles, is_split
):
    """Of training and of evaluation; where a model is split, its blocks are, each by itself."""
    options = Options(compile=wanted)
    shards = object() if is_split else None
    runtime = SimpleNamespace(device=device, options=options, shards=shards, is_packed=False)
    assert uses_compile(runtime) == (compiles and not is_split)


@pytest.mark.parametrize(
    ("device", "wanted", "works", "compiles"),
    [
        ("cuda", None, True, True),
        ("cuda", None, False, False),
        ("cuda", False, True, False),
        ("cpu", None, True, False),
        ("cpu", True, True, True),
    ],
)
def test_blocks_of_a_split_model_are_compiled_on_cuda_where_the_compiler_works(
    monkeypatch, device, wanted, works, compiles
):
    monkeypatch.setattr(sharding, "can_compile", lambda device: works)
    group = SimpleNamespace(
        rank_info=RankInfo(0, 2),
        device=torch.device(device),
        get_mesh=lambda size: None,
        open_side_group=lambda: None,
    )
    shards = sharding.Shards(group, Options(shard="full", compile=wanted))
    assert shards.compiles == compiles


@pytest.mark.parametrize(
    ("capability", "dtype", "options", "has_triton", "found"),
    [
        ((9, 0), torch.bfloat16, Options(), True, Kernels(True, True, True)),
        ((9, 0), torch.float16, Options(), True, Kernels(True, True, True)),
        ((9, 0), torch.float32, Options(), True, Kernels(False, True, True)),
        ((7, 5), torch.float16, Options(), True, Kernels(False, True, True)),
        ((9, 0), torch.bfloat16, Options(), False, Kernels(True, False, True)),
        ((9, 0), torch.bfloat16, Options(compile=False), True, Kernels(True, False, True)),
        ((9, 0), torch.bfloat16, Options(deterministic=True), True, Kernels(True, True, False)),
    ],
)
def test_kernels_are_those_that_the_device_and_the_type_have(
    monkeypatch, capability, dtype, options, has_triton, found
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(fused_attention, "has_triton", lambda: has_triton)
    assert find_kernels(CUDA, dtype, options) == found


@pytest.mark.parametrize(("options", "is_static"), [({}, True), ({"deterministic": True}, False)])
def test_decoders_on_cuda_are_those_of_captured_steps(monkeypatch, options, is_static):
    spec = make_spec()
    model = find_backend("torch").build(spec, make_weights(spec), Options("cpu", **options))
    made = []
    for name in ("StaticDecoder", "StaticRowDecoder"):
        monkeypatch.setattr(inference, name, lambda *args, name=name: made.append(name) or name)
    for kind in (model.decoder, model.row_decoder):
        kind(1, 8)
    assert made == []
    model.runtime.device = CUDA
    if not is_static:
        monkeypatch.setattr(inference, "Decoder", lambda *args: "Decoder")
        monkeypatch.setattr(inference, "RowDecoder", lambda *args: "RowDecoder")
    expected = ["StaticDecoder", "StaticRowDecoder"]
    assert [kind(1, 8) for kind in (model.decoder, model.row_decoder)] == (
        expected if is_static else ["Decoder", "RowDecoder"]
    )


@pytest.mark.parametrize(
    ("has_flex", "is_distributed"), [(True, True), (True, False), (False, True)]
)
def test_of_several_ranks_none_has_kernels_whose_shapes_are_its_own(has_flex, is_distributed):
    """The kernel of documents has one for each number of them; FlexAttention has not."""
    spec = make_spec()
    state = TrainState(make_weights(spec), {}, {}, 0)
    runtime = Runtime(spec, state.params, Options("cpu", compile=False), training=True)
    runtime.kernels = Kernels(varlen=True, flex=has_flex)
    group = SimpleNamespace(
        rank_info=RankInfo(0, 2 if is_distributed else 1), wrap=lambda module: module
    )
    Learner(runtime, state, Recipe(), group)
    assert runtime.kernels == Kernels(varlen=not (has_flex and is_distributed), flex=has_flex)


@pytest.mark.parametrize("training", [True, False])
def test_memory_of_a_training_run_on_cuda_grows_in_segments(monkeypatch, training):
    """Asked for before anything is on the device, of which there is none here."""
    asked, spec = [], make_spec()
    monkeypatch.setattr(runtime_module, "list_devices", lambda: ("cuda", "cpu"))
    monkeypatch.setattr(runtime_module, "use_expandable_segments", lambda: asked.append(1))

    class Reached(Exception):
        pass

    def stop(*arguments):
        raise Reached

    monkeypatch.setattr(runtime_module, "PositionTables", stop)
    with pytest.raises(Reached):
        Runtime(spec, make_weights(spec), Options("cuda"), training=training)
    assert asked == [1] * training


@pytest.mark.parametrize("training", [True, False])
def test_a_state_leaves_the_device_by_a_stream_of_its_own(monkeypatch, training):
    """In training, which goes on meanwhile."""
    told, spec = [], make_spec()
    plain = runtime_module.HostCopies
    monkeypatch.setattr(
        runtime_module,
        "HostCopies",
        lambda device, *, beside: told.append(beside) or plain(device, beside=beside),
    )
    runtime = Runtime(spec, make_weights(spec), Options("cpu"), training=training)
    assert told == [training]
    assert not runtime.stages  # a CPU's memory is the host's


@pytest.mark.parametrize(("wanted", "captures"), [(None, True), (True, True), (False, False)])
def test_steps_are_captured_unless_nothing_is_to_be_compiled(monkeypatch, wanted, captures):
    told = []
    monkeypatch.setattr(
        static_rows, "StepGraphs", lambda device, *, captures: told.append(captures)
    )
    spec = make_spec()
    options = Options("cpu", compile=wanted)
    find_backend("torch").build(spec, make_weights(spec), options).make_device_row_decoder(1, 8)
    assert told == [captures]


def test_a_split_model_is_not_decoded_by_captured_steps():
    spec = make_spec()
    model = find_backend("torch").build(spec, make_weights(spec), Options("cpu"))
    model.runtime.shards = object()
    with pytest.raises(Unsupported, match="not decoded by captured steps"):
        model.make_device_decoder(1, 8)
