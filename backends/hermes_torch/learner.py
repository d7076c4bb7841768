"""Gradients and updates: everything of one optimizer step, with one wait for the device at most."""

import contextlib
import warnings

import torch

from hermes.interface import LazyTensors, StepReport, TrainState, check_batch
from hermes.numerics.lora import list_trainable
from hermes.numerics.randomness import dropout_row_keys
from hermes_torch.inference import Model
from hermes_torch.optim import clip_scale, global_norm, update_exact, update_fused


class Learner(Model):
    """A model with gradients and AdamW's state."""

    def __init__(self, engine, state, recipe, process_group):
        super().__init__(engine)
        self._recipe, self._steps_done, self._processes = recipe, state.step, process_group
        self._trained = list_trainable(engine.spec, recipe)
        has_dropout = engine.spec.has_dropout or bool(recipe.lora and recipe.lora.dropout)
        # A reference has no masks, so a policy that is compared with it has none either.
        self._uses_dropout = has_dropout and recipe.objective != "preference"
        # Kept, as a module that is split has others while it is used.
        self._tensors = tensors = dict(engine.module.named_parameters())
        for name, p in tensors.items():
            p.requires_grad_(name in self._trained)
        self._groups = {True: [], False: []}  # by decay: (p, m, v) and its name
        self._moments = {}
        for name in self._trained:
            m = self._moment(state.exp_avg, name, tensors[name])
            v = self._moment(state.exp_avg_sq, name, tensors[name])
            self._moments[name] = m, v
            self._groups[engine.table[name].decay].append((tensors[name], m, v))
        exact = engine.options.exact or engine.dtype == torch.float64
        self._update = update_exact if exact else update_fused
        self._norm = engine.shards.norm if engine.shards else global_norm
        self._objective = Objective(engine, recipe)
        if process_group.rank_info.world_size > 1 and not engine.shards:
            self._objective = process_group.wrapped(self._objective)
        self._summed_loss = self._compiled() if self._compiles() else self._objective

    def _moment(self, held, name, p):
        if name not in held:
            return torch.zeros_like(p, requires_grad=False)
        return self.engine.placed(held[name], training=True)

    def _compiles(self):
        if self.engine.shards:
            return False
        wanted = self.engine.options.compile
        return self.engine.device.type == "cuda" if wanted is None else wanted

    def _compiled(self):
        """The loss compiled; where the compiler is missing or fails, a warning and no more."""
        compiled = torch.compile(self._objective, dynamic=False)

        def first(*batch):
            try:
                result = compiled(*batch)
                self._summed_loss = compiled
            except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
                reason = str(error).strip().splitlines()[0]
                warnings.warn(f"torch.compile failed, so the run goes on without it: {reason}")
                self._summed_loss = self._objective
                result = self._objective(*batch)
            return result

        return first

    def _accumulate(self, batch):
        """Gradients of the batch's loss, into .grad; the loss and rows' log-probabilities, lazy."""
        check_batch(batch, self._recipe)
        e, total, rows = self.engine, torch.zeros((), device=self.engine.device), []
        count = batch.counts.terms
        for a in range(len(batch.tokens)):
            segments, positions_in_document = e.documents(
                None if batch.segments is None else batch.segments[a]
            )
            dropout_keys = None
            if self._uses_dropout:
                row_keys = dropout_row_keys(self._recipe.seed, self._steps_done + 1, batch.rows[a])
                dropout_keys = e.tensor(row_keys.view("int32"), torch.int32)
            reference = batch.pairs and e.tensor(batch.pairs.reference[a], e.master)
            tokens, targets = e.tensor(batch.tokens[a]), e.tensor(batch.targets[a])
            at = self._wanted(batch.targets[a], batch.pairs is not None)
            with self._unshared(a < len(batch.tokens) - 1):
                loss, sums = self._summed_loss(
                    tokens, targets, at, segments, positions_in_document, dropout_keys, reference
                )
                loss = loss / count
                if a == len(batch.tokens) - 1:
                    self._processes.ready()
                loss.backward()
            total = total + loss.detach()
            rows.append(sums)
        self._fill()
        if e.shards:
            e.shards.sum_vectors(self._tensors.values())
        if self._processes.rank_info.world_size > 1:
            self._processes.summed(total)
        return total, None if batch.pairs is None else Rows(rows)

    def _fill(self):
        """Zeros for a tensor that the loss does not depend on, as MLX has them: torch has none."""
        for name in self._trained:
            p = self._tensors[name]
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad

    def _wanted(self, targets, pairs):
        """Which tokens' logits are made: a compiled loss makes all, to keep its shape."""
        if pairs:
            return self.engine.pair_layout(targets, everywhere=self._compiles())
        return None if self._compiles() else self.engine.target_indices(targets)

    def _unshared(self, holds):
        """A block whose gradients stay in this process: the last micro-batch's are summed."""
        if self.engine.shards:
            self.engine.shards.before(last=not holds)
            return contextlib.nullcontext()
        several = self._processes.rank_info.world_size > 1
        return self._objective.no_sync() if several and holds else contextlib.nullcontext()

    def _watched(self, doing=None):
        """A block that fails with PeerLost where another process is lost."""
        if self._processes.rank_info.world_size == 1:
            return contextlib.nullcontext()
        return self._processes.watched(doing or f"the gradients of step {self._steps_done + 1}")

    def loss(self, batch):
        """The batch's loss over all micro-batches, without dropout."""
        with self._watched(f"the evaluation of step {self._steps_done}"):
            return super().loss(batch)

    def preferences(self, batch):
        """Of a batch of pairs: its loss, and each row's log-probability. -> (), (A, B)."""
        with self._watched(f"the evaluation of step {self._steps_done}"):
            return super().preferences(batch)

    def _clear(self):
        for p in self._tensors.values():
            p.grad = None

    def grads(self, batch):
        """Loss with dropout as of the next update, and the gradient of every trained tensor."""
        self._clear()
        with self.engine.on(), self._watched():
            loss = float(self._accumulate(batch)[0])
        found = {name: self.engine.read(self._tensors[name].grad) for name in self._trained}
        self._clear()
        return loss, found

    def step(self, batch, lr):
        """One update from all micro-batches: gradients, clipping, AdamW."""
        with self.engine.on(), self._watched():
            loss, rows = self._accumulate(batch)
            grads = [p.grad for group in self._groups.values() for p, _, _ in group]
            norm = self._norm(grads)
        with self.engine.on(), torch.no_grad():
            if self._recipe.grad_clip:
                local_grads = [self.engine.local(g) for g in grads]
                torch._foreach_mul_(local_grads, clip_scale(norm, self._recipe.grad_clip))
            finite = torch.isfinite(norm) & torch.isfinite(loss)
            self._steps_done += 1
            for decay, group in self._groups.items():
                self._update(
                    [tuple(map(self.engine.local, (p, p.grad, m, v))) for p, m, v in group],
                    lr=lr,
                    step=self._steps_done,
                    decay=float(decay),
                    rule=self._recipe.optimizer,
                    finite=finite,
                )
        self._clear()
        return StepReport(step=self._steps_done, loss=loss, grad_norm=norm, row_logprobs=rows)

    @torch.no_grad()
    def digests(self):
        """A number of the bits of each tensor and its moments: the sum of its 32-bit words."""
        found = {name: [p, *self._moments.get(name, ())] for name, p in self._tensors.items()}
        words = [
            sum(
                self.engine.local(x).view(torch.int32).sum(dtype=torch.int64) * k
                for k, x in enumerate(held, 1)
            )
            for held in found.values()
        ]
        if self.engine.shards:
            words = self.engine.shards.digests(words, self._tensors.values())
        return {name: int(word) for name, word in zip(found, words, strict=True)}

    def state(self):
        """Weights, moments and the number of updates made."""
        copied = self.engine.copied
        first = LazyTensors(self._trained, lambda name: copied(self._moments[name][0]))
        second = LazyTensors(self._trained, lambda name: copied(self._moments[name][1]))
        return TrainState(self.params(), first, second, self._steps_done)


class Objective(torch.nn.Module):
    """A micro-batch's summed loss as a function of the module's parameters."""

    def __init__(self, engine, recipe):
        super().__init__()
        self.module = engine.module
        self._engine, self._rule = engine, recipe.preference

    def forward(
        self, tokens, targets, at, segments, positions_in_document, dropout_keys, reference
    ):
        """The loss, and of pairs also each row's log-probability. -> (), (B,)."""
        e = self._engine
        ctx = e.context(
            None, segments, positions_in_document, dropout_keys, recompute=e.options.grad_checkpoint
        )
        if reference is None:
            return self.module(tokens, ctx, e.ops.next_token, targets, at), None
        return self.module(tokens, ctx, e.ops.preference, targets, at, reference, self._rule)


class Rows:
    """Numbers of each micro-batch's rows that wait for the device only when they are read."""

    def __init__(self, rows):
        self._rows = [row.detach() for row in rows]

    def __array__(self, dtype=None, copy=None):
        """(A, B)"""
        return torch.stack(self._rows).cpu().numpy().astype(dtype or "float64")
