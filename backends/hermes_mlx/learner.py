"""A model with gradients and AdamW's state: one optimizer step, run one step ahead of the device.

Of several processes each computes its share of a batch. They must issue the same collectives in
the same order, or they wait for each other for ever: the loss first, then gradients, both after
the last micro-batch, when this process's own share has been evaluated.
"""

import contextlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.core import array as Array
from numpy.typing import NDArray

from hermes.interface import Batch, LazyTensors, StepReport, Tensors, TrainState, check_batch
from hermes.numerics.lora import list_trainable
from hermes.numerics.randomness import dropout_row_keys
from hermes.recipe import Recipe
from hermes_mlx.inference import Model
from hermes_mlx.optim import adamw, clip_scale, global_norm
from hermes_mlx.runtime import Runtime

Arrays = dict[str, Array]


class Learner(Model):
    """A model that trains; see hermes.interface.Learner."""

    # process_group: hermes_mlx's own, or SINGLE_PROCESS, of which only rank_info is read.
    def __init__(self, runtime: Runtime, state: TrainState, recipe: Recipe, process_group: Any):
        super().__init__(runtime)
        self._recipe, self._steps_done, self._process_group = recipe, state.step, process_group
        self._distributed = process_group.rank_info.world_size > 1
        self._trained = list_trainable(runtime.spec, recipe)
        has_dropout = runtime.spec.has_dropout or bool(recipe.lora and recipe.lora.dropout)
        # The reference of preferences has no dropout, so the policy compared with it has none.
        self._uses_dropout = has_dropout and recipe.objective != "preference"
        with runtime.apply_options():
            tensors = runtime.get_parameters()
            self._params = {name: tensors[name] for name in self._trained}
            self._exp_avg = self._load_moments(state.exp_avg)
            self._exp_avg_sq = self._load_moments(state.exp_avg_sq)
        self._summed_loss: Callable = mx.value_and_grad(self._compute_loss)
        self._update: Callable = self._compute_update
        if self._uses_compile():
            self._summed_loss = self._compile(self._summed_loss)
            self._update = self._compile(self._compute_update)
        self._last_loss: Array | None = None

    def _load_moments(self, moments: Tensors) -> Arrays:
        loaded = {
            name: self.runtime.to_device(moments[name], p.dtype)
            if name in moments
            else mx.zeros_like(p)
            for name, p in self._params.items()
        }
        mx.eval(loaded)
        return loaded

    def _uses_compile(self) -> bool:
        wanted = self.runtime.options.compile
        return self.runtime.device == mx.Device(mx.gpu) if wanted is None else wanted

    def _compile(self, function: Callable) -> Callable:
        """Compile a function; where the compiler is missing or fails, warn and run without it."""
        chosen = mx.compile(function)
        tried = False

        def run(*arguments: Any) -> Any:
            nonlocal chosen, tried
            if tried:
                return chosen(*arguments)
            tried = True
            # MLX builds kernels when the first result is evaluated, so that is where it may fail.
            try:
                result = chosen(*arguments)
                mx.eval(result)
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[0]
                warnings.warn(f"mx.compile failed, so the run continues without it: {reason}")
                chosen = function
                result = function(*arguments)
            return result

        return run

    def _compute_loss(
        self,
        params: Arrays,
        tokens: Array,
        targets: Array,
        layout: Any,
        segments: Array | None,
        positions_in_document: Array | None,
        dropout_keys: Array | None,
        reference: Array | None,
        weights: Array | None = None,
        by_row: bool = False,
    ) -> tuple[Array, Array | None]:
        """The summed loss; of pairs, or by_row, each row's log-probability. -> (), (B,) or None."""
        runtime, module = self.runtime, self.runtime.module
        runtime.set_parameters(params)
        recompute = runtime.options.grad_checkpoint
        ctx = runtime.make_context(
            None, segments, positions_in_document, dropout_keys, recompute=recompute
        )
        x = module.model(tokens, ctx)  # (B, T, C)
        if by_row:
            return runtime.ops.next_token_by_row(module, x, targets, layout)
        if reference is None:
            return runtime.ops.next_token(module, x, targets, layout, weights), None
        rule = self._recipe.preference
        return runtime.ops.preference(module, x, targets, layout, reference, rule, weights)

    def _choose_layout(self, targets: NDArray[np.integer], has_pairs: bool) -> Any:
        """Which tokens get logits: a compiled loss computes all, so that no shape changes."""
        if has_pairs:
            return self.runtime.make_pair_layout(targets, everywhere=self._uses_compile())
        return None if self._uses_compile() else self.runtime.find_targets(targets)

    def _accumulate(self, batch: Batch) -> tuple[Array, Arrays, "LazyRows | None"]:
        """The batch's loss, its gradients, and rows' log-probabilities, none of them read yet."""
        check_batch(batch, self._recipe)
        runtime, count = self.runtime, batch.counts.divisor
        runtime.tables.prepare(batch.tokens.shape[-1])
        total: Any = None
        grads: Any = None
        rows = []
        for a in range(len(batch.tokens)):
            segments, positions_in_document = runtime.load_segments(
                None if batch.segments is None else batch.segments[a]
            )
            dropout_keys = None
            if self._uses_dropout:
                row_keys = dropout_row_keys(self._recipe.seed, self._steps_done + 1, batch.rows[a])
                dropout_keys = runtime.to_device(row_keys, mx.uint32)
            (loss, sums), new_grads = self._summed_loss(
                self._params,
                runtime.to_device(batch.tokens[a]),
                runtime.to_device(batch.targets[a]),
                self._choose_layout(batch.targets[a], batch.pairs is not None),
                segments,
                positions_in_document,
                dropout_keys,
                batch.pairs and runtime.to_device(batch.pairs.reference[a], runtime.master),
                None
                if batch.weights is None
                else runtime.to_device(batch.weights[a], runtime.master),
                batch.sources is not None,
            )
            rows.append(sums)
            total = loss if total is None else total + loss
            if grads is None:
                grads = new_grads
            else:
                grads = {name: grads[name] + g for name, g in new_grads.items()}
            if len(batch.tokens) > 1:
                mx.eval(total, grads)  # or the activations of all micro-batches live at once
        # The trace has left its placeholders in the module.
        runtime.set_parameters(self._params)
        has_rows = batch.pairs is not None or batch.sources is not None
        lazy_rows = LazyRows(rows) if has_rows else None
        if self._distributed:
            # Evaluated before the first collective: what a rank needs for its own share is
            # measured up to here, and a lazy graph would mix collectives with computation.
            mx.eval(total, grads)
            self._process_group.ready()
            total = self._process_group.sum_array(total)
            return total / count, self._process_group.sum_gradients(grads, count), lazy_rows
        return total / count, {name: g / count for name, g in grads.items()}, lazy_rows

    def _watch(self) -> contextlib.AbstractContextManager:
        """A context that raises PeerLost where another process is lost."""
        if not self._distributed:
            return contextlib.nullcontext()
        return self._process_group.watch(f"the gradients of step {self._steps_done + 1}")

    def grads(self, batch: Batch) -> tuple[float, Tensors]:
        """The loss with the next step's dropout, and the gradient of every trained tensor."""
        with self.runtime.apply_options(), self._watch():
            loss, grads, _ = self._accumulate(batch)
            to_numpy = self.runtime.to_numpy
            return float(LazyScalar(loss)), {name: to_numpy(grads[name]) for name in self._trained}

    def _compute_update(
        self,
        params: Arrays,
        exp_avg: Arrays,
        exp_avg_sq: Arrays,
        grads: Arrays,
        loss: Array,
        scalars: Sequence[Array],
    ) -> tuple[Arrays, Arrays, Arrays, Array]:
        """Clip and apply AdamW: new params and moments, and the norm before clipping.

        Nothing changes where loss or norm is not finite. That is chosen element by element, not by
        an if: reading the norm would make the host wait, and a compiled function cannot.
        """
        norm = global_norm(grads.values())
        scale = clip_scale(norm, self._recipe.grad_clip)
        finite = mx.isfinite(norm) & mx.isfinite(loss)
        lr, first, second = scalars
        updated: tuple[Arrays, Arrays, Arrays] = {}, {}, {}
        for name in self._trained:
            old = params[name], exp_avg[name], exp_avg_sq[name]
            new = adamw(
                old[0],
                scale * grads[name],
                old[1],
                old[2],
                lr=lr,
                first=first,
                second=second,
                decay=float(self.runtime.table[name].decay),
                rule=self._recipe.optimizer,
            )
            for tensors, before, after in zip(updated, old, new, strict=True):
                tensors[name] = mx.where(finite, after, before)
        return (*updated, norm)

    def step(self, batch: Batch, lr: float) -> StepReport:
        """Take one optimizer step: gradients of all micro-batches, clipping, AdamW."""
        runtime, rule, step = self.runtime, self._recipe.optimizer, self._steps_done + 1
        with runtime.apply_options(), self._watch():
            loss, grads, rows = self._accumulate(batch)
            scalars = [
                runtime.to_device(np.float64(value), runtime.master)
                for value in (lr, lr / (1 - rule.beta1**step), (1 - rule.beta2**step) ** -0.5)
            ]
            self._params, self._exp_avg, self._exp_avg_sq, norm = self._update(
                self._params, self._exp_avg, self._exp_avg_sq, grads, loss, scalars
            )
            runtime.set_parameters(self._params)
            # The host prepares this step while the device runs the one before, and no further:
            # queued steps would hold their activations and batches.
            if self._last_loss is not None:
                mx.eval(self._last_loss)
            mx.async_eval(loss, norm, self._params, self._exp_avg, self._exp_avg_sq)
        self._last_loss, self._steps_done = loss, step
        return StepReport(step, LazyScalar(loss), LazyScalar(norm), rows)

    def digests(self) -> Mapping[str, int]:
        """The sum of the 32-bit words of each tensor and, times 2 and 3, of its moments."""
        digests: dict[str, Any] = {}
        with self.runtime.apply_options():
            for name, p in self.runtime.get_parameters().items():
                moments = (m[name] for m in (self._exp_avg, self._exp_avg_sq) if name in m)
                words = [x.view(mx.int32).astype(mx.int64).sum() for x in (p, *moments)]
                digests[name] = sum(word.item() * k for k, word in enumerate(words, 1))
        return digests

    def state(self) -> TrainState:
        """Weights, moments and the number of steps taken."""
        # MLX's arrays never change: a later step makes new ones, so these can be read when asked.
        exp_avg, exp_avg_sq, to_numpy = self._exp_avg, self._exp_avg_sq, self.runtime.to_numpy
        return TrainState(
            self.params(),
            LazyTensors(self._trained, lambda name: to_numpy(exp_avg[name])),
            LazyTensors(self._trained, lambda name: to_numpy(exp_avg_sq[name])),
            self._steps_done,
        )


class LazyScalar:
    """A number; float() waits for the device and reads it."""

    def __init__(self, array: Array):
        self._array: Any = array

    def __float__(self) -> float:
        return float(self._array.item())


class LazyRows:
    """A number for each row of each micro-batch; np.asarray waits for the device and reads them."""

    def __init__(self, rows: list[Array]):
        self._rows = rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """(A, B)"""
        return np.array(mx.stack(self._rows)).astype(dtype or "float64")
