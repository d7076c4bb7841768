"""Before a run: memory for its model, disk for its checkpoints, and a dry run."""

import itertools
import re
import shlex
import subprocess
import sys

import pytest

from hermes import mal
from hermes.checkpoint import RetentionPolicy, count_checkpoint_bytes, list_steps
from hermes.errors import HermesError, OutOfMemory, StorageError, explain_exhaustion
from hermes.model_info import fitting
from hermes.model_info.cost import compute_cost
from hermes.model_info.memory import HostMemory, count_training_bytes, read_host_memory
from hermes.model_info.training_memory import Placement, plan_memory
from hermes.numerics.params import list_parameters
from hermes.process_limits import count_thread_room
from hermes.recipe import Lora, Recipe
from hermes.training import preflight
from hermes.training.preflight import count_kept_checkpoints
from tests.training.support import SPEC


@pytest.fixture
def memory(monkeypatch):
    """The memory of a machine, as given."""

    def give(total, available, limit=""):
        found = HostMemory(total, available, limit)
        monkeypatch.setattr(fitting, "read_host_memory", lambda: found)

    return give


@pytest.fixture
def free(monkeypatch):
    """The free bytes of a disk, as given."""

    def give(count):
        monkeypatch.setattr(preflight, "count_free_bytes", lambda path: count)

    return give


def test_a_model_that_does_not_fit_is_refused_before_the_text_is_read(go, memory):
    memory(24 * 10**9, 20 * 10**9)
    (go.folder / "bad.txt").write_bytes(b"\xff")  # which reading refuses
    with pytest.raises(OutOfMemory) as refused:
        go(spec="llama-7b", data=go.folder / "bad.txt", device="cpu")
    assert str(refused.value) == (
        "training llama-7b needs 104 GB of memory besides its activations, and of this machine's "
        "24.0 GB 20.0 GB is available; choose a smaller model, --lora-rank to train adapters "
        "(finetune, sft, dpo), shard full over several devices, or force=True to try"
    )
    assert not (go.folder / "run").exists()


def test_a_model_of_any_size_is_answered_at_once(go):
    """4e12 parameters: nothing of that size is made to find out."""
    huge = SPEC.replace("hidden_size: 16", "hidden_size: 1000000")
    with pytest.raises(OutOfMemory, match=r"^training little needs \S+ TB of memory besides"):
        go(spec=huge, device="cpu")


def test_force_tries_and_says_so(go, memory):
    memory(10_000, 10_000)
    result = go(max_steps=1, device="cpu", force=True)
    assert any(note.startswith("training little needs ") for note in result.notes)


def test_training_takes_what_info_says():
    spec = mal.loads(SPEC)
    known = compute_cost(spec).memory
    for precision in ("float32", "bfloat16"):
        assert count_training_bytes(spec, Recipe(), precision) == known[precision]["training"]
    assert count_training_bytes(spec, Recipe(), "float64") == 2 * known["float32"]["training"]
    adapters = count_training_bytes(spec, Recipe(lora=Lora(rank=1)), "float32")
    assert known["float32"]["weights"] < adapters < known["float32"]["training"] / 2


def test_frozen_matrices_are_counted_in_bfloat16_and_once():
    spec = mal.loads(SPEC)
    table = list_parameters(spec)
    matrices = sum(one.size for one in table.values() if len(one.shape) > 1)
    embeddings = table["model.embed_tokens.weight"].size  # and the head's, which is tied

    def compare(recipe):
        """How many bytes bfloat16 takes less."""
        wide, short = (count_training_bytes(spec, recipe, one) for one in ("float32", "bfloat16"))
        return wide - short

    assert compare(Recipe()) == -2 * matrices
    assert compare(Recipe(lora=Lora(rank=1))) == 2 * matrices
    # DoRA measures the rows of the others in float32.
    dora = compare(Recipe(lora=Lora(rank=1, dora=True)))
    assert dora == 2 * embeddings - 2 * (matrices - embeddings)


def test_this_machine_has_memory():
    memory = read_host_memory()
    assert 0 < memory.available <= memory.total


def test_a_checkpoint_has_the_size_that_is_expected(go):
    result = go(max_steps=1)
    size = sum(path.stat().st_size for path in result.checkpoint.glob("*.safetensors"))
    expected = count_checkpoint_bytes(mal.loads(SPEC.replace("300", "290")), Recipe())
    assert size <= expected <= 1.2 * size


@pytest.mark.parametrize(
    ("keep", "every", "count"),
    [
        (RetentionPolicy(), 10, 10),
        (RetentionPolicy(), 0, 1),
        (RetentionPolicy(), 30, 4),  # 30, 60, 90, and the last
        (RetentionPolicy(last=1), 10, 2),  # one is deleted once the next is whole
        (RetentionPolicy(last=3), 10, 4),
        (RetentionPolicy(last=50), 10, 10),
        (RetentionPolicy(every=50), 10, 5),  # 50, 100, the newest two, and one being written
        (RetentionPolicy(last=1, best="val_loss"), 10, 3),
    ],
)
def test_retention_counts(keep, every, count):
    assert count_kept_checkpoints(keep, 0, 100, every) == count
    assert count_kept_checkpoints(keep, 100, 100, every) == 0


@pytest.mark.parametrize(
    "keep", [RetentionPolicy(), RetentionPolicy(every=4), RetentionPolicy(last=2, every=6)]
)
def test_retention_counts_what_a_list_of_the_steps_has(keep):
    for step, total, every in itertools.product((0, 1, 5, 12), (3, 12, 13, 24), (0, 1, 5, 6)):
        steps = {one for one in range(step + 1, total + 1) if every and one % every == 0}
        steps |= {total} if total > step else set()
        expected = len(steps)
        if not keep.everything and steps:
            last = 2 if keep.last is None else keep.last
            expected = min(expected, last + sum(one % keep.every == 0 for one in steps) + 1)
        assert count_kept_checkpoints(keep, step, total, every) == expected


def test_a_run_without_end_is_counted_at_once():
    """As many numbers as steps would take all memory."""
    assert count_kept_checkpoints(RetentionPolicy(), 0, 10**15, 1) == 10**15
    assert count_kept_checkpoints(RetentionPolicy(last=1, every=10**9), 0, 10**15, 1) == 10**6 + 2


def test_a_disk_too_small_for_the_checkpoints_is_said_before_training(go, free):
    one = count_checkpoint_bytes(mal.loads(SPEC.replace("300", "290")), Recipe())
    options = {"save_every": 2, "max_steps": 12}
    free(6 * one - 1)
    with pytest.raises(StorageError) as refused:
        go("refused", **options)
    size = r"\S+ kB"
    assert re.fullmatch(
        rf"6 checkpoints of {size} need {size}, and {re.escape(str(go.folder))}/refused has {size} "
        "free; make room, choose another output, or keep fewer by keep_last",
        str(refused.value),
    ), refused.value
    assert not (go.folder / "refused").exists()
    free(6 * one)
    warned = go("warned", **options)
    (note,) = [one for one in warned.notes if one.startswith("6 checkpoints of ")]
    assert note.endswith(" free: little for whatever else is written there")
    free(6 * one - 1)
    forced = go("forced", force=True, **options)
    assert any(one.endswith(" free: the run ends when it is full") for one in forced.notes)
    free(12 * one)
    assert not any("checkpoints of" in note for note in go("room", **options).notes)
    free(4 * one)
    assert go("few", keep_last=1, **options).steps == 12


def test_a_dry_run_checks_everything_and_writes_nothing(go):
    result = go(dry_run=True)
    assert (result.steps, result.finished) == (0, True)
    assert not (go.folder / "run").exists()
    with pytest.raises(HermesError, match=r"^seq_len is 64, more than"):
        go(dry_run=True, seq_len=64)
    go(max_steps=1)
    before = sorted(path.name for path in (go.folder / "run").iterdir())
    go(max_steps=9, resume=True, dry_run=True)
    assert sorted(path.name for path in (go.folder / "run").iterdir()) == before
    assert [step for step, _ in list_steps(go.folder / "run")] == [1]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory; free some,"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate"),
            "out of memory ([enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory (CUDA out"),
        (RuntimeError("[malloc] Unable to allocate 8 bytes."), "out of memory ([malloc] Unable"),
        (RuntimeError("can't start new thread"), "no further thread can be started (can't start"),
        (ImportError("libmlx.so: failed to map segment from shared object"), "out of memory (lib"),
        (OSError(12, "Cannot allocate memory"), "out of memory ([Errno 12] Cannot allocate"),
        (
            RuntimeError("[metal::malloc] Resource limit (499000) exceeded."),
            "out of memory ([metal",
        ),
        (
            RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
            "out of memory (CUB",
        ),
        (RuntimeError("could not create a primitive"), "out of memory (could not create"),
        (
            RuntimeError(f"C++ compile error\n\nCommand:\ng++ {'x' * 300}\ncc1plus: out of memory"),
            "out of memory (cc1plus: out of memory)",
        ),
    ],
)
def test_what_ran_out_is_one_sentence(error, said):
    told = explain_exhaustion(error)
    assert told.startswith(said)
    assert "\n" not in told


def test_other_errors_are_not_taken_for_it():
    descriptor = "could not create a primitive descriptor for the matmul primitive."  # unsupported
    for error in (RuntimeError("shape"), ImportError("no module named x"), ValueError("memory"),
                  RuntimeError(descriptor)):  # fmt: skip
        assert explain_exhaustion(error) is None


def test_a_step_whose_activations_do_not_fit_is_warned_of_with_the_batch_that_does(go, memory):
    room = 2 * count_training_bytes(mal.loads(SPEC), Recipe(), "float32")
    memory(10**9, room)
    result = go(batch_size=64, max_steps=1, device="cpu", dry_run=True)
    (note,) = [note for note in result.notes if note.startswith("a step needs about ")]
    largest = int(re.search(r"batch.size.(\d+) would fit", note)[1])
    assert 0 < largest < 64
    fits = go(batch_size=largest, max_steps=1, device="cpu", dry_run=True)
    assert not any("a step needs about" in note for note in fits.notes)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_step_of_many_times_the_memory_is_refused(go, memory, backend):
    """The system would end the process without a word."""
    memory(10**9, 9 * 10**8)
    asked = {"batch_size": 10**9, "max_steps": 1, "device": "cpu", "dry_run": True}
    with pytest.raises(OutOfMemory) as refused:
        go(**asked, backend=backend)
    assert re.fullmatch(
        r"a step needs about \S+ TB at its peak, and of this machine's 1.00 GB 900 MB is "
        r"available: batch_size \d+ would fit, says hermes plan; choose that, with grad_accum "
        r"for as many samples a step, or force=True to try",
        str(refused.value),
    )
    assert refused.value.exit_code == 71
    notes = go(**asked, backend=backend, force=True).notes
    assert any(note.startswith("a step needs about ") for note in notes)


def test_mlx_refuses_a_step_beyond_a_limit_since_it_would_end_without_a_word(go, memory):
    room = 10 * count_training_bytes(mal.loads(SPEC), Recipe(), "float32")
    asked = {"batch_size": 64, "max_steps": 1, "device": "cpu", "dry_run": True}
    threads = count_thread_room("ulimit -v")
    memory(10**10, threads + room, "ulimit -v")
    with pytest.raises(OutOfMemory) as refused:
        go(**asked, backend="mlx")
    told = re.fullmatch(
        r"a step needs about \S+ MB at its peak, and of this machine's 10.0 GB \S+ [kMG]B is "
        r"available, because of ulimit -v \(its threads take \S+ [MG]B\), "
        r"beyond which MLX ends without a word: batch_size (\d+) would fit; "
        r"choose that, raise the limit, or force=True to try",
        str(refused.value),
    )
    assert told
    recipe = Recipe(batch_size=int(told[1]), seq_len=16)
    peak = plan_memory(mal.loads(SPEC), recipe, Placement("mlx")).total
    assert peak <= 0.9 * room  # what is left is for what a plan does not know
    assert refused.value.exit_code == 71
    memory(10**9, room, "ulimit -v")
    for how in ({"backend": "torch"}, {"backend": "mlx", "force": True}):
        notes = go(**asked, **how).notes
        assert any(note.startswith("a step needs about ") for note in notes)
    memory(10**10, threads + 20 * room, "ulimit -v")
    assert not go(**asked | {"batch_size": 1}, backend="mlx").notes[0].startswith("a step needs")
    memory(10**9, room)  # too little of the machine's own, which the system takes from others
    assert any(note.startswith("a step needs about ") for note in go(**asked, backend="mlx").notes)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_recomputing_is_named_where_no_batch_fits_without_it(go, memory, backend):
    spec = mal.loads(SPEC.replace("num_layers: 2", "num_layers: 12"))
    assert spec.num_layers == 12
    recipe = Recipe(batch_size=1, seq_len=32)
    whole, less = (
        plan_memory(spec, recipe, Placement(backend, grad_checkpoint=one)).total
        for one in (False, True)
    )
    memory(10**9, (whole + less) // 2)
    asked = {"batch_size": 8, "seq_len": 32, "max_steps": 1, "device": "cpu", "dry_run": True}
    notes = go(spec=spec, backend=backend, **asked).notes
    (note,) = [note for note in notes if note.startswith("a step needs about ")]
    assert re.search(r": --batch-size [1-8] with --grad-checkpoint would fit, says", note)
    memory(10**9, count_training_bytes(spec, recipe, "float32") + 1)
    notes = go(spec=spec, backend=backend, **asked, grad_checkpoint=True).notes
    assert any(": no --batch-size would fit, says" in note for note in notes)


def test_what_limits_memory_is_named():
    told = "from hermes.model_info.memory import read_host_memory as r; print(r().limit)"
    command = f"ulimit -v 1000000; exec {shlex.quote(sys.executable)} -c {shlex.quote(told)}"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert ran.stdout == "ulimit -v\n"


def test_auto_batch_keeps_the_samples_of_a_step_and_fits(go, memory):
    memory(10**9, 3 * count_training_bytes(mal.loads(SPEC), Recipe(), "float32"))
    result = go(
        batch_size=24, grad_accum=2, max_steps=1, device="cpu", dry_run=True, auto_batch=True
    )
    (note,) = [note for note in result.notes if "instead of 24 x 2" in note]
    size, parts = map(int, re.search(r"batch_size (\d+) x grad_accum (\d+)", note).groups())
    assert size * parts == 48
    assert size < 24
    assert not any("a step needs about" in one for one in result.notes)
    memory(10**12, 10**12)
    result = go(batch_size=4, grad_accum=3, max_steps=1, device="cpu", auto_batch=True)
    assert any("batch_size 12 x grad_accum 1 instead of 4 x 3" in note for note in result.notes)


def test_auto_batch_counts_the_sum_of_micro_batches_and_leaves_two_to_compare(go, memory):
    spec = mal.loads(SPEC.replace("300", "290"))
    asked = {"batch_size": 48, "max_steps": 1, "device": "cpu", "dry_run": True, "seq_len": 16,
             "auto_batch": True}  # fmt: skip

    def choose(**more):
        notes = go(**asked | more).notes
        found = next(re.search(r"batch_size (\d+) x grad_accum (\d+) inst", one) for one in notes
                     if " instead of " in one)  # fmt: skip
        return tuple(map(int, found.groups()))

    def plan(size, parts):
        recipe = Recipe(batch_size=size, grad_accum=parts, seq_len=16)
        return plan_memory(spec, recipe, Placement()).total

    assert plan(24, 1) < plan(24, 2)
    memory(10**9, int(plan(24, 1) / 0.9) + 10)  # for 24 sequences that are all of a step
    size, parts = choose()
    assert size * parts == 48
    assert plan(size, parts) <= plan(24, 1)
    memory(10**12, 10**12)
    assert choose() == (48, 1)
    assert choose(batch_size=24, grad_accum=2, gradient_noise_scale=True) == (24, 2)
