"""A model with gradients and optimizer state: one optimizer step, run one step ahead of the device.

Of several processes each computes its share of a batch. They must issue the same collectives in
the same order, or they wait for each other for ever: the loss first, then gradients, both after
the last micro-batch, when this process's own share has been evaluated.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.core import array as Array
from numpy.typing import NDArray

from hermes.host_allocator import keep_freed_memory
from hermes.interface import Batch, StepReport, Tensors, TrainState, check_batch
from hermes.numerics.lora import list_trainable
from hermes.numerics.randomness import dropout_row_keys
from hermes.numerics.update_rules import EMA
from hermes.recipe import Recipe
from hermes_mlx.compiler import compile_function, uses_compile
from hermes_mlx.inference import Model
from hermes_mlx.loss_scale import Scaling, load_loss_scale, read_loss_scale
from hermes_mlx.optim import global_norm
from hermes_mlx.optimizer import Arrays, Optimizer
from hermes_mlx.runtime import Runtime


class Learner(Model):
    """A model that trains; see hermes.interface.Learner."""

    # process_group: hermes_mlx's own, or SINGLE_PROCESS, of which only rank_info is read.
    def __init__(self, runtime: Runtime, state: TrainState, recipe: Recipe, process_group: Any):
        super().__init__(runtime)
        self._recipe, self._steps_done, self._process_group = recipe, state.step, process_group
        self._distributed = process_group.rank_info.world_size > 1
        self._trained = list_trainable(runtime.spec, recipe)
        head = runtime.module.lm_head
        matrix = "model.embed_tokens.weight" if head.weight is None else "lm_head.weight"
        head.trains_weight = matrix in self._trained
        has_dropout = runtime.spec.has_dropout or bool(recipe.lora and recipe.lora.dropout)
        # The reference of preferences has no dropout, so the policy compared with it has none.
        self._uses_dropout = has_dropout and recipe.objective != "preference"
        with runtime.apply_options():
            tensors = runtime.get_parameters()
            self._params = {name: tensors[name] for name in self._trained}
            runtime.freeze_parameters(set(tensors) - set(self._trained))
            self._optimizer = Optimizer(runtime, state, recipe, self._params)
            self._scaling: Scaling | None = None
            if runtime.dtype == mx.float16:
                self._scaling = load_loss_scale(state.loss_scale, recipe.loss_scaling)
        self._summed_loss: Callable = mx.value_and_grad(self._compute_loss)
        self._update: Callable = self._optimizer.compute_update
        if self._uses_compile():
            self._summed_loss = compile_function(self._summed_loss)
            self._update = compile_function(self._update)
        self._shapes: set[tuple[int, ...]] = set()  # of micro-batches so far
        self._last_loss: Array | None = None
        self._first_norm: Array | None = None

    def _uses_compile(self) -> bool:
        return uses_compile(self.runtime)

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
        factor: Array | None = None,
    ) -> tuple[Array, tuple[Array, Array | None]]:
        """What is differentiated: the summed loss, times `factor`, a (), if there is one.

        And the loss without it; of pairs, or by_row, each row's log-probability, (B,), else None.
        """
        runtime, module = self.runtime, self.runtime.module
        runtime.set_parameters(params)
        recompute = runtime.options.grad_checkpoint
        ctx = runtime.make_context(
            None, segments, positions_in_document, dropout_keys, recompute=recompute
        )
        x = module.model(tokens, ctx)  # (B, T, C)
        z_weight = self._recipe.z_loss
        ops, where, sums = runtime.ops, (module, x, targets, layout), None
        if by_row:
            loss, sums = ops.next_token_by_row(*where, z_weight, factor)
        elif reference is None:
            loss = ops.next_token(*where, weights, z_weight, factor)
        else:
            rule = self._recipe.preference
            loss, sums = ops.preference(*where, reference, rule, weights, factor)
        return loss if factor is None else loss * factor, (loss, sums)

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
        factor = None
        share: Any = count  # what the sum of the gradients is divided by
        if self._scaling is not None:
            share = self._scaling[0]
            factor = share / count
        total: Any = None
        grads: Any = None
        rows = []
        self._first_norm = None
        for a in range(len(batch.tokens)):
            segments, positions_in_document = runtime.load_segments(
                None if batch.segments is None else batch.segments[a]
            )
            dropout_keys = None
            if self._uses_dropout:
                row_keys = dropout_row_keys(self._recipe.seed, self._steps_done + 1, batch.rows[a])
                dropout_keys = runtime.to_device(row_keys, mx.uint32)
            (_, (loss, sums)), new_grads = self._summed_loss(
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
                factor,
            )
            rows.append(sums)
            total = loss if total is None else total + loss
            if grads is None:
                grads = new_grads
                if batch.measures_noise and len(batch.tokens) > 1:
                    self._first_norm = self._measure_first(grads, share)
            else:
                grads = {name: grads[name] + g for name, g in new_grads.items()}
            if len(batch.tokens) > 1:
                # Begun now, or the activations of all micro-batches live at once; not waited for,
                # so that the next one is prepared meanwhile. MLX runs few operations ahead.
                mx.async_eval(total, grads, self._first_norm)
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
            return total / count, self._process_group.sum_gradients(grads, share), lazy_rows
        return total / count, {name: g / share for name, g in grads.items()}, lazy_rows

    def _measure_first(self, grads: Arrays, share: Any) -> Array:
        """The norm of this process's gradients of its first micro-batch, without the loss scale.

        Nothing has been summed over processes yet, so each may have another.
        """
        return global_norm(grads[name] for name in self._trained) / share

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

    def step(self, batch: Batch, lr: float) -> StepReport:
        """Take one optimizer step: gradients of all micro-batches, clipping, update."""
        runtime, optimizer, step = self.runtime, self._optimizer, self._steps_done + 1
        is_new = self._meet_shape(batch)
        expecting = self._expect_compiling() if is_new else contextlib.nullcontext()
        with expecting, runtime.apply_options(), self._watch():
            loss, grads, rows = self._accumulate(batch)
            scalars = optimizer.compute_scalars(lr, step)
            scaling = self._scaling
            limit = None
            if batch.loss_limit is not None:
                limit = runtime.to_device(np.float64(batch.loss_limit), runtime.master)
            self._params, optimizer.kept, norm, self._scaling, applied = self._update(
                self._params, optimizer.kept, grads, loss, scalars, scaling, limit
            )
            runtime.set_parameters(self._params)
            # Tensor by tensor, or the moments of all are there in the type of the weights at once.
            kept = optimizer.kept.values()
            tensors = [(p, *(held.get(name) for held in kept)) for name, p in self._params.items()]
            mx.async_eval(loss, norm, tensors, self._scaling, applied)
            # The device has this step before the host waits for the one before, once an update and
            # no further: more queued steps would hold their batches.
            if self._last_loss is not None:
                mx.eval(self._last_loss)
            if is_new and not runtime.is_on_gpu:
                mx.eval(loss, norm, tensors)  # or the first step is still on its way
                keep_freed_memory(runtime)
        self._last_loss, self._steps_done = loss, step
        scale = scaling and LazyScalar(scaling[0])
        first = None if self._first_norm is None else LazyScalar(self._first_norm)
        told = None if applied is None else LazyScalar(applied)
        numbers = LazyScalar(loss), LazyScalar(norm), rows, scale, first, told
        return StepReport(step, *numbers, runs_ahead=self.runtime.is_on_gpu)

    def _meet_shape(self, batch: Batch) -> bool:
        """Whether a batch has a shape that no batch had before."""
        shape = batch.tokens.shape[1:]
        is_new = shape not in self._shapes
        self._shapes.add(shape)
        return is_new

    def _expect_compiling(self) -> contextlib.AbstractContextManager:
        """A context in which peers may be silent for long, as a batch has a shape that is new."""
        if not (self._distributed and self._uses_compile()):
            return contextlib.nullcontext()
        return self._process_group.allow_compiling()

    @contextlib.contextmanager
    def use_average(self) -> Iterator[None]:
        """A context in which the model is the average of the weights, of a recipe with ema."""
        self.runtime.set_parameters(self._optimizer.kept[EMA])
        try:
            yield
        finally:
            self.runtime.set_parameters(self._params)

    def digests(self) -> Mapping[str, int]:
        """The sum of the words of each tensor and, times 2 and so on, of what is kept."""
        digests: dict[str, Any] = {}
        with self.runtime.apply_options():
            for name, p in self.runtime.get_parameters().items():
                kept = (held[name] for held in self._optimizer.kept.values() if name in held)
                words = [sum_words(x) for x in (p, *kept)]
                digests[name] = sum(word.item() * k for k, word in enumerate(words, 1))
        return digests

    def state(self) -> TrainState:
        """Weights, what the optimizer keeps, and the number of steps taken."""
        scale, slots = (
            self._scaling and read_loss_scale(self._scaling),
            self._optimizer.copy_slots(),
        )
        return TrainState.from_slots(self.params(), slots, self._steps_done, scale)


def sum_words(x: Any) -> Array:
    """The sum of an array's words, int64; of a moment in 8 bits of its codes and exponents."""
    if isinstance(x, tuple | list):
        codes, exponents = (part.astype(mx.int64).sum() for part in x)
        total: Array = codes + 65537 * exponents
        return total
    return x.view(mx.int16 if x.dtype == mx.bfloat16 else mx.int32).astype(mx.int64).sum()


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
