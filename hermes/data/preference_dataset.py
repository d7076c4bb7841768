"""The dataset of preference pairs for DPO and its variants.

A micro-batch holds the chosen completions in its first half and the rejected ones in its second,
each row with its log-probability under the reference model.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hermes.chat_templates.example import Example
from hermes.data.dataset import CountBytes, UpdateLayout
from hermes.data.encoded_pairs import EncodedPair
from hermes.data.example_dataset import check_ids, hash_examples, split_examples
from hermes.data.example_rows import fill_rows, round_width
from hermes.data.order import Cursor, order_samples
from hermes.interface import IGNORE, Batch, LossCounts, PreferencePairs
from hermes.recipe import Preference

__all__ = ["PREFERENCE_METRICS", "PreferenceDataset", "compute_preference_metrics"]

# The names that `compute_preference_metrics` reports; kl only where there is a reference model.
PREFERENCE_METRICS = (
    *("reward_margin", "accuracy", "chosen_reward", "rejected_reward"),
    *("chosen_logprob", "rejected_logprob", "kl"),
)


class PreferenceDataset:
    """Batches of preference pairs; a sample is a pair.

    max_len: the most tokens of a prompt with a completion. train and held_out: samples in the order
    of training. reference (N, 2): each pair's summed log-probabilities under the reference model,
    chosen and rejected, in the order of the file; zeros until they are set. weighted: whether pairs
    have weights, which count in training and not in validation.
    """

    def __init__(
        self,
        pairs: Sequence[EncodedPair],
        *,
        max_len: int,
        vocab_size: int,
        rule: Preference,
        seed: int = 0,
        val_fraction: float = 0.0,
    ):
        sides = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
        check_ids(sides, vocab_size)
        self._pairs, self._rule, self._seed = pairs, rule, seed
        self._room = max_len - 1
        self._weights = np.array([pair.weight for pair in pairs], np.float32)
        self.weighted = bool((self._weights != 1).any())
        self.fingerprint = hash_examples(sides)
        if self.weighted:
            own = self._weights.astype("<f4").tobytes()
            self.fingerprint = hashlib.sha256(self.fingerprint.encode() + own).hexdigest()
        self._tokens = sum(map(len, sides))
        training, out = split_examples(len(pairs), val_fraction, seed)
        self._order = np.array([*training, *out], np.int64)
        self.train = range(len(training))
        self.held_out = range(len(training), len(pairs))
        self.reference = np.zeros((len(pairs), 2))

    def __len__(self) -> int:
        return self._tokens

    def select_pairs(self, cursor: Cursor, samples: int) -> NDArray[np.int64]:
        """Find the next pairs at a cursor. -> (samples,), numbers in the order of the file"""
        return self._order[order_samples(self._seed, cursor, samples, len(self.train))]

    def select_held_out(self) -> NDArray[np.int64]:
        """Find the held-out pairs. -> numbers in the order of the file"""
        return self._order[self.held_out.start :]

    def draw_batch(
        self,
        cursor: Cursor,
        *,
        samples: int,
        micro_batch: int,
        accum: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> tuple[Batch, Cursor]:
        """Draw this rank's share of the next `samples` pairs; return it and the next cursor."""
        layout = UpdateLayout.build(samples, micro_batch, accum, rank, world_size)
        batch = self.make_batch(self.select_pairs(cursor, samples), layout, self.weighted)
        return batch, cursor.advance(samples, len(self.train))

    def iterate_validation(
        self, micro_batch: int, *, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Yield every held-out pair once, in order."""
        numbers = self.select_held_out()
        for start in range(0, len(numbers), micro_batch * world_size):
            taken = numbers[start : start + micro_batch * world_size]
            yield self.make_batch(
                taken, UpdateLayout.build(len(taken), micro_batch, 1, rank, world_size)
            )

    def count_validation_bytes(self, count_bytes: CountBytes) -> int:
        """Return 0: the loss of a pair is no code length of text, so there are no bits per byte."""
        return 0

    def close(self) -> None:
        """Do nothing: the pairs are in memory."""

    def make_batch(
        self, pairs: NDArray[np.int64], layout: UpdateLayout, weighted: bool = False
    ) -> Batch:
        """Make a batch of pairs, by their numbers in the file; it has two rows for each pair."""
        numbers = np.concatenate([layout.rows, layout.rows], axis=1)  # (A, 2 P)
        real = np.concatenate([layout.real, layout.real], axis=1)
        is_rejected = np.repeat([0, 1], layout.rows.shape[1])[None, :] + np.zeros_like(numbers)
        rows: list[list[Example]] = []
        for number, exists, rejected in zip(numbers.flat, real.flat, is_rejected.flat, strict=True):
            if not exists:
                rows.append([])
                continue
            pair = self._pairs[pairs[number]]
            rows.append([pair.rejected if rejected else pair.chosen])
        # Over the rows of all ranks, so that any split of a step has the same shapes, and therefore
        # the same dropout masks.
        all_rows = [
            side for n in pairs for side in (self._pairs[n].chosen, self._pairs[n].rejected)
        ]
        longest = max((len(side) - 1 for side in all_rows), default=0)
        num_targets = sum(int(side.loss_mask[1:].sum()) for side in all_rows)
        width = round_width(longest, self._room)
        shape = (*numbers.shape, width)
        tokens, targets, _ = (part.reshape(shape) for part in fill_rows(rows, width))
        pair_numbers = pairs[np.where(real, numbers, 0)] if len(pairs) else numbers
        reference = np.where(real, self.reference[pair_numbers, is_rejected], 0.0)
        weights, total = None, None
        if weighted:
            weights = np.where(real, self._weights[pair_numbers], 0).astype(np.float32)
            total = float(self._weights[pairs].sum(dtype=np.float64))
        # Each of a pair's two rows has a number of its own, which keys its dropout mask.
        keys = (2 * numbers + is_rejected).astype(np.uint32)
        return Batch(
            tokens,
            targets,
            keys,
            pairs=PreferencePairs(reference, self._rule),
            global_counts=LossCounts(len(pairs), num_targets, total),
            weights=weights,
        )


def compute_preference_metrics(batch: Batch, row_logprobs: ArrayLike) -> Mapping[str, float]:
    """Compute the metrics of a batch of pairs besides its loss: means over the pairs, in nats.

    row_logprobs (A, B): summed log-probability of each row. A completion's reward is beta (s - r)
    with s and r its log-probabilities under the policy and the reference model; without a reference
    it is beta times the mean log-probability per token. accuracy: the share of pairs whose chosen
    completion has the higher reward. kl: the mean of s - r over all completions, which estimates
    the policy's divergence insofar as the completions are likely under the policy.
    """
    assert batch.pairs is not None, "only called with pairs"
    rule, num_pairs = batch.pairs.rule, batch.targets.shape[1] // 2
    counts = (batch.targets != IGNORE).sum(axis=-1)  # (A, 2 P)
    real = counts[:, :num_pairs] > 0
    sums = np.asarray(row_logprobs, np.float64)
    ratio = sums - batch.pairs.reference if rule.needs_reference else sums / np.maximum(counts, 1)
    chosen, rejected = ratio[:, :num_pairs][real], ratio[:, num_pairs:][real]
    metrics = {
        "reward_margin": rule.beta * float((chosen - rejected).mean()),
        "accuracy": float((chosen > rejected).mean()),
        "chosen_reward": rule.beta * float(chosen.mean()),
        "rejected_reward": rule.beta * float(rejected.mean()),
        "chosen_logprob": float(sums[:, :num_pairs][real].mean()),
        "rejected_logprob": float(sums[:, num_pairs:][real].mean()),
    }
    if rule.needs_reference:
        metrics["kl"] = float((chosen.sum() + rejected.sum()) / (2 * len(chosen)))
    return metrics
