"""A step on a CPU takes memory that the last one freed, not page by page from the kernel."""

import ctypes
import dataclasses
import gc
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hermes import host_allocator
from hermes.interface import Batch, Options, TrainState, find_backend
from hermes.numerics.params import init_weights
from hermes.recipe import Recipe
from hermes.spec import AttentionSpec, BlockSpec, FfnSpec, ModelSpec

SPEC = ModelSpec((BlockSpec(AttentionSpec(2), FfnSpec(8)),), "wide", "", 1 << 20, 8, 8, 1)  # 32 MiB
NUMBERS = 64 << 20  # 256 MiB of float32: more than glibc ever keeps by itself
LEAST_NUMBERS = 1 << 22  # 16 MiB: glibc by itself soon has arrays of that size in its heap
MALLOC_FIELDS = (
    *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
    *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
)
ours_alone = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc's allocator, from 2.33 on"
)


@pytest.fixture
def no_settings(monkeypatch):
    for name in (*host_allocator.VARIABLES, "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)


class Owner:
    """Something that can be collected."""


class MallocInfo(ctypes.Structure):
    """struct mallinfo2 of malloc.h."""

    _fields_ = [(name, ctypes.c_size_t) for name in MALLOC_FIELDS]


def count_mapped():
    """Bytes of the arrays that are memory of their own."""
    read = ctypes.CDLL(None).mallinfo2
    read.restype = MallocInfo
    return read().hblkhd


def count_resident():
    """Bytes of this process in main memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def make_learner(spec, backend="torch", **options):
    state = TrainState(init_weights(spec, 0), {}, {}, 0)
    options = Options(device="cpu", **options)
    return find_backend(backend).learner(spec, state, Recipe(), options)


def take_step(learner, length):
    ids = np.zeros((1, 2, length), np.int32)
    learner.step(Batch(ids, ids, np.arange(2, dtype=np.uint32)[None]), 1e-3)


@ours_alone
@pytest.mark.usefixtures("no_settings")
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_memory_is_kept_while_a_learner_lives_and_returned_after_it(backend):
    learner = make_learner(SPEC, backend)
    take_step(learner, 4)
    before = count_mapped()
    array = np.ones(NUMBERS, np.float32)
    assert count_mapped() == before  # it is part of the heap
    held = count_resident()
    del array
    assert count_resident() > held - NUMBERS  # of 4 bytes each
    del learner
    gc.collect()
    assert count_resident() < held - 3 * NUMBERS


def print_mapped(backend):
    """Whether a small array is memory of its own before a learner's first step, and after it.

    Of a process of its own, whose heap has no room for it.
    """
    learner, found = make_learner(dataclasses.replace(SPEC, vocab_size=8), backend), []
    for _ in range(2):
        before = count_mapped()
        array = np.ones(LEAST_NUMBERS, np.float32)
        found.append(count_mapped() > before)
        del array
        take_step(learner, 4)
    print(*found)


@ours_alone
@pytest.mark.usefixtures("no_settings")
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_what_the_first_step_leaves_does_not_lie_between_arrays(backend):
    code = f"from {__name__} import print_mapped; print_mapped({backend!r})"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True)
    assert done.stdout.split() == ["True", "False"]


@ours_alone
@pytest.mark.usefixtures("no_settings")
def test_an_owner_counts_once():
    gc.collect()
    before, owner = len(host_allocator._owners), Owner()
    assert host_allocator.map_large_arrays(owner)
    assert host_allocator.keep_freed_memory(owner)
    assert host_allocator.keep_freed_memory(owner)
    assert len(host_allocator._owners) == before + 1
    del owner
    assert len(host_allocator._owners) == before


@ours_alone
@pytest.mark.usefixtures("no_settings")
def test_a_process_that_goes_on_after_its_last_training_gives_memory_back_by_itself():
    """A notebook that trains and then serves holds no more than one that has not trained."""
    gc.collect()  # what other tests have trained
    first, second = Owner(), Owner()
    for owner in (first, second):
        assert host_allocator.keep_freed_memory(owner)
    before = count_mapped()
    del first, owner
    array = np.ones(NUMBERS, np.float32)
    assert count_mapped() == before  # the second goes on
    del second, array
    array = np.ones(NUMBERS, np.float32)
    assert count_mapped() >= before + 4 * NUMBERS
    held = count_resident()
    del array
    assert count_resident() < held - 3 * NUMBERS


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_every_model_that_is_trained_asks_and_no_other(monkeypatch, backend):
    asked, small = [], dataclasses.replace(SPEC, vocab_size=8)
    monkeypatch.setattr(f"hermes_{backend}.runtime.map_large_arrays", asked.append)
    find_backend(backend).build(small, init_weights(small, 0), Options(device="cpu"))
    assert not asked
    make_learner(small, backend)
    assert len(asked) == 1


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_memory_is_kept_from_the_first_step_on_and_given_back_after_a_new_shape(
    monkeypatch, backend
):
    lengths, kept = [], []
    monkeypatch.setattr(
        f"hermes_{backend}.learner.keep_freed_memory", lambda owner: kept.append(len(lengths))
    )
    learner = make_learner(dataclasses.replace(SPEC, vocab_size=8), backend)
    for length in (8, 8, 4, 8, 4):
        lengths.append(length)
        take_step(learner, length)
    assert kept == [1, 3]


@ours_alone
@pytest.mark.usefixtures("no_settings")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_MMAP_THRESHOLD_", "65536"),
        ("MALLOC_TRIM_THRESHOLD_", "65536"),
        ("MALLOC_MMAP_MAX_", "65536"),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=65536"),
    ],
)
def test_the_users_setting_is_left_as_it_is(monkeypatch, name, value):
    owner = Owner()
    assert host_allocator.keep_freed_memory(owner)
    monkeypatch.setenv(name, value)
    assert not host_allocator.keep_freed_memory(owner)


def test_settings_of_something_else_are_no_reason_to_free(monkeypatch, no_settings):
    """Such as huge pages, or how many arenas there are."""
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1")
    assert host_allocator.keep_freed_memory(Owner())
