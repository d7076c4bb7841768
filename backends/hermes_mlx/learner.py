"""Gradients and updates: everything of one optimizer step, at most one step ahead of the device."""

import contextlib
import warnings

import mlx.core as mx
import numpy as np

from hermes.interface import LazyTensors, StepReport, TrainState, check_batch
from hermes.numerics.lora import list_trainable
from hermes.numerics.randomness import dropout_row_keys
from hermes_mlx.inference import Model
from hermes_mlx.optim import adamw, clip_scale, global_norm


class Learner(Model):
    """A model with gradients and AdamW's state."""

    def __init__(self, engine, state, recipe, process_group):
        super().__init__(engine)
        self._recipe, self._steps_done, self._processes = recipe, state.step, process_group
        self._trained = list_trainable(engine.spec, recipe)
        has_dropout = engine.spec.has_dropout or bool(recipe.lora and recipe.lora.dropout)
        # A reference has no masks, so a policy that is compared with it has none either.
        self._uses_dropout = has_dropout and recipe.objective != "preference"
        with engine.on():
            tensors = engine.tensors()
            self._params = {name: tensors[name] for name in self._trained}
            self._first = self._moments(state.exp_avg)
            self._second = self._moments(state.exp_avg_sq)
        self._summed_loss = mx.value_and_grad(self._plain_loss)
        self._update = self._plain_update
        if self._compiles():
            self._summed_loss = self._compiled(self._summed_loss)
            self._update = self._compiled(self._plain_update)
        self._last = None

    def _moments(self, held):
        made = {}
        for name, p in self._params.items():
            made[name] = (
                self.engine.tensor(held[name], p.dtype) if name in held else mx.zeros_like(p)
            )
        mx.eval(made)
        return made

    def _compiles(self):
        wanted = self.engine.options.compile
        return self.engine.device == mx.Device(mx.gpu) if wanted is None else wanted

    def _compiled(self, function):
        """The function compiled; where the compiler is missing or fails, a warning and no more."""
        chosen = [mx.compile(function)]
        tried = []

        def run(*arguments):
            if tried:
                return chosen[0](*arguments)
            tried.append(True)
            try:
                result = chosen[0](*arguments)
                mx.eval(result)
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[0]
                warnings.warn(f"mx.compile failed, so the run goes on without it: {reason}")
                chosen[0] = function
                result = function(*arguments)
            return result

        return run

    def _plain_loss(
        self, params, tokens, targets, at, segments, positions_in_document, dropout_keys, reference
    ):
        """A micro-batch's summed loss, and of pairs also each row's log-probability."""
        e = self.engine
        e.put(params)
        ctx = e.context(
            None, segments, positions_in_document, dropout_keys, recompute=e.options.grad_checkpoint
        )
        x = e.module.model(tokens, ctx)  # (B, T, C)
        if reference is None:
            return e.ops.next_token(e.module, x, targets, at), None
        return e.ops.preference(e.module, x, targets, at, reference, self._recipe.preference)

    def _wanted(self, targets, pairs):
        """Which tokens' logits are made: a compiled loss makes all, to keep its shape."""
        if pairs:
            return self.engine.pair_layout(targets, everywhere=self._compiles())
        return None if self._compiles() else self.engine.target_indices(targets)

    def _accumulated(self, batch):
        """The batch's loss, its gradients and rows' log-probabilities, all still lazy."""
        check_batch(batch, self._recipe)
        e, count, total, grads, rows = self.engine, batch.counts.terms, None, None, []
        for a in range(len(batch.tokens)):
            segments, positions_in_document = e.documents(
                None if batch.segments is None else batch.segments[a]
            )
            dropout_keys = None
            if self._uses_dropout:
                row_keys = dropout_row_keys(self._recipe.seed, self._steps_done + 1, batch.rows[a])
                dropout_keys = e.tensor(row_keys, mx.uint32)
            tokens, targets = e.tensor(batch.tokens[a]), e.tensor(batch.targets[a])
            at = self._wanted(batch.targets[a], batch.pairs is not None)
            reference = batch.pairs and e.tensor(batch.pairs.reference[a], e.master)
            (loss, sums), found = self._summed_loss(
                self._params,
                tokens,
                targets,
                at,
                segments,
                positions_in_document,
                dropout_keys,
                reference,
            )
            rows.append(sums)
            total = loss if total is None else total + loss
            grads = found if grads is None else {n: grads[n] + g for n, g in found.items()}
            if len(batch.tokens) > 1:
                mx.eval(total, grads)  # or every micro-batch's activations live at once
        e.put(self._params)
        rows = None if batch.pairs is None else Rows(rows)
        if self._processes.rank_info.world_size > 1:
            mx.eval(total, grads)
            self._processes.ready()
            total = self._processes.summed_number(total)
            return total / count, self._processes.summed(grads, count), rows
        return total / count, {name: g / count for name, g in grads.items()}, rows

    def _watched(self):
        """A block that fails with PeerLost where another process is lost."""
        if self._processes.rank_info.world_size == 1:
            return contextlib.nullcontext()
        return self._processes.watched(f"the gradients of step {self._steps_done + 1}")

    def grads(self, batch):
        """Loss with dropout as of the next update, and the gradient of every trained tensor."""
        with self.engine.on(), self._watched():
            loss, grads, _ = self._accumulated(batch)
            return loss.item(), {name: self.engine.read(grads[name]) for name in self._trained}

    def _plain_update(self, params, first, second, grads, loss, scalars):
        """Every tensor after AdamW, and the norm of the gradients; unchanged if not finite."""
        norm = global_norm(grads.values())
        scale = clip_scale(norm, self._recipe.grad_clip)
        finite = mx.isfinite(norm) & mx.isfinite(loss)
        lr, one, two = scalars
        moved = {}, {}, {}
        for name in self._trained:
            old = params[name], first[name], second[name]
            new = adamw(
                old[0],
                scale * grads[name],
                old[1],
                old[2],
                lr=lr,
                first=one,
                second=two,
                decay=float(self.engine.table[name].decay),
                rule=self._recipe.optimizer,
            )
            for kept, before, after in zip(moved, old, new, strict=True):
                kept[name] = mx.where(finite, after, before)
        return (*moved, norm)

    def step(self, batch, lr):
        """One update from all micro-batches: gradients, clipping, AdamW."""
        e, rule, step = self.engine, self._recipe.optimizer, self._steps_done + 1
        with e.on(), self._watched():
            loss, grads, rows = self._accumulated(batch)
            scalars = (lr, lr / (1 - rule.beta1**step), (1 - rule.beta2**step) ** -0.5)
            scalars = [e.tensor(np.float64(x), e.master) for x in scalars]
            self._params, self._first, self._second, norm = self._update(
                self._params, self._first, self._second, grads, loss, scalars
            )
            e.put(self._params)
            if self._last is not None:
                mx.eval(self._last)
            mx.async_eval(loss, norm, self._params, self._first, self._second)
        self._last, self._steps_done = loss, step
        return StepReport(step, Lazy(loss), Lazy(norm), rows)

    def digests(self):
        """A number of the bits of each tensor and its moments: the sum of its 32-bit words."""
        found = {}
        with self.engine.on():
            for name, p in self.engine.tensors().items():
                moments = (held[name] for held in (self._first, self._second) if name in held)
                words = [x.view(mx.int32).astype(mx.int64).sum() for x in (p, *moments)]
                found[name] = sum(word.item() * k for k, word in enumerate(words, 1))
        return found

    def state(self):
        """Weights, moments and the number of updates made."""
        first, second, read = self._first, self._second, self.engine.read
        return TrainState(
            self.params(),
            LazyTensors(self._trained, lambda name: read(first[name])),
            LazyTensors(self._trained, lambda name: read(second[name])),
            self._steps_done,
        )


class Lazy:
    """A scalar that waits for the device only when it is read."""

    def __init__(self, array):
        self._array = array

    def __float__(self):
        return float(self._array.item())


class Rows:
    """Numbers of each micro-batch's rows that wait for the device only when they are read."""

    def __init__(self, rows):
        self._rows = rows

    def __array__(self, dtype=None, copy=None):
        """(A, B)"""
        return np.array(mx.stack(self._rows)).astype(dtype or "float64")
