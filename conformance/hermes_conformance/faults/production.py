"""Faults of paths that only production takes: KV caches in bfloat16, chunked losses, row counts."""

from unittest import mock

import numpy as np

from hermes.interface import IGNORE
from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.kernels import scale_gradient
from hermes_conformance.faults.patcher import FAST_TABLES, Function, Patcher


def _is_bfloat16(dtype) -> bool:
    return str(dtype).endswith("bfloat16")


def _rotate_early_in_bfloat16(patcher: Patcher) -> None:
    """With a bfloat16 cache, rope rotates all reads after the first by one position too few."""

    def wrap(original):
        def faulty(self, spec, T):
            if not (_is_bfloat16(self.dtype) and self.cache and self.offset):
                return original(self, spec, T)
            tables = self.tables.get_angles(spec, self.cache.capacity)
            return tuple(table[self.offset - 1 : self.offset - 1 + T] for table in tables)

        return faulty

    patcher.wrap_method("context", "Context", "angles", wrap)


def _reverse_chunks(patcher: Patcher) -> None:
    """Log-probabilities evaluated in several chunks come in the reverse order of chunks."""
    chunked_loss = patcher.load_module("chunked_loss")
    original = chunked_loss.score_groups

    def reverse(*args):
        return reversed([*original(*args)])

    def wrap(score):
        def faulty(*args):
            with mock.patch.object(chunked_loss, "score_groups", reverse):
                return score(*args)

        return faulty

    patcher.wrap_table("logprobs", wrap, FAST_TABLES)


def _delay_logprobs(patcher: Patcher) -> None:
    def wrap(original):
        def faulty(module, x, targets, at):
            result = original(module, x, targets, at)
            if at is None:
                return result
            late = np.roll(np.arange(targets.shape[1]), 1)
            return patcher.gather(result.swapaxes(0, 1), late).swapaxes(0, 1)

        return faulty

    patcher.wrap_table("logprobs", wrap, FAST_TABLES)


def _double_later_chunks(patcher: Patcher) -> None:
    """A pair's loss in several chunks has twice its derivative in all chunks but the first."""

    def wrap(original):
        def faulty(self, number, held):
            result = original(self, number, held)
            begin, end = self.groups[number][0]
            result[end - begin :] = 2 * result[end - begin :]
            return result

        return faulty

    patcher.wrap_method("chunked_loss", "PairGroups", "expand_to_tokens", wrap)


def _count_ignored_targets(patcher: Patcher) -> None:
    """In chunks, a target that does not count has a log-probability of 1."""

    def wrap(original):
        def faulty(head, x, targets, *rest):
            logp, *others = original(head, x, targets, *rest)
            return logp + (targets == IGNORE), *others

        return faulty

    patcher.wrap_function(patcher.load_module("chunked_loss").score_chunk, wrap)


def _detach_token_rows(patcher: Patcher) -> None:
    """In chunks, trained rows of tokens get no gradient from their logits."""

    def wrap(original):
        def faulty(head):
            rows = original(head)
            return None if rows is None else patcher.detach(rows)

        return faulty

    patcher.wrap_function(patcher.load_module("chunked_loss").find_token_rows, wrap)


def _change_linear(change: Function) -> Plant:
    """Compute matrix products by change(original, self, x, rows), rows being those of x."""

    def plant(patcher: Patcher) -> None:
        def wrap(original):
            def faulty(self, x):
                return change(original, self, x, int(np.prod(x.shape[:-1])))

            return faulty

        patcher.wrap_forward("Linear", wrap)

    return plant


def _drop_bias_of_single_row(original, self, x, rows):
    saved = self.bias
    try:
        self.bias = None if rows == 1 else saved
        return original(self, x)
    finally:
        self.bias = saved


def _change_tall_products(original, self, x, rows):
    result = original(self, x)
    return result * 1.01 if rows > 64 else result


def _halve_gradient_before_block(patcher: Patcher) -> None:
    """In float32, only half the gradient passes back through a block that is recomputed."""

    def wrap(original):
        def faulty(self, layer, x):
            if not self.recompute or str(self.dtype).endswith("float64"):
                return original(self, layer, x)
            return layer(scale_gradient(patcher, 0.5, x), self)

        return faulty

    patcher.wrap_method("context", "Context", "run_block", wrap)


def _make_fault(name: str, law: str, case: str, plant: Plant, only: str | None = None) -> Fault:
    return Fault(name, "production", law, case, plant, only)


FAULTS = (
    _make_fault(
        "rope in a bfloat16 cache is a place early",
        "L3/decoding",
        "default/hot",
        _rotate_early_in_bfloat16,
    ),
    _make_fault(
        "the second slice of a pair has twice its slopes",
        "L2/gradients",
        "slices.pairs/hot",
        _double_later_chunks,
    ),
    _make_fault(
        "targets that do not count have a loss, in chunks",
        "L2/gradients",
        "edge.no target in a micro-batch/hot",
        _count_ignored_targets,
    ),
    _make_fault(
        "trained rows of tokens have no gradient, in chunks",
        "L2/gradients",
        "lora.token rows/hot",
        _detach_token_rows,
    ),
    _make_fault(
        "evaluated slices come last first",
        "L2/logprobs",
        "slices.next token/hot",
        _reverse_chunks,
    ),
    _make_fault(
        "log-probabilities are a place late where some targets do not count",
        "L2/logprobs",
        "default/hot",
        _delay_logprobs,
    ),
    _make_fault(
        "a product of one row has no bias",
        "L2/decoding",
        "decoding.one row/hot",
        _change_linear(_drop_bias_of_single_row),
    ),
    _make_fault(
        "a product of one row has no bias, in bfloat16",
        "L3/decoding",
        "decoding.one row/hot",
        _change_linear(_drop_bias_of_single_row),
    ),
    _make_fault(
        "a product of more than 64 rows is a hundredth off",
        "L2/decoding",
        "decoding.one row/hot",
        _change_linear(_change_tall_products),
    ),
    _make_fault(
        "recomputing in float32 halves the gradient of what lies before",
        "L4/checkpointing-float32",
        "train.dropout/fresh",
        _halve_gradient_before_block,
    ),
)
