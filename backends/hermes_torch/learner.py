"""A model with gradients and an optimizer: one step, of one wait for the device at most.

Of several processes each computes its share of a batch. They must issue the same collectives in
the same order, or they wait for each other for ever: gradients (by DDP or FSDP, during the backward
pass of the last micro-batch), then the vectors of a sharded module, then the loss, then the norm of
sharded gradients.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor as Array

from hermes.errors import Unsupported
from hermes.host_allocator import keep_freed_memory
from hermes.interface import Batch, StepReport, Tensors, TrainState, check_batch
from hermes.numerics.lora import list_trainable
from hermes.numerics.randomness import dropout_row_keys
from hermes.recipe import Recipe
from hermes_torch.compiled_evaluation import uses_compile
from hermes_torch.compiler import compile_function, warn_compiler_failed
from hermes_torch.host_copies import HostCopies, LateNumber, LateNumbers
from hermes_torch.inference import Model
from hermes_torch.loss_scale import LossScaler
from hermes_torch.micro_batches import iterate_micro_batches
from hermes_torch.objective import Objective
from hermes_torch.optim import global_norm, is_applied
from hermes_torch.optimizer import Optimizer, get_grad
from hermes_torch.runtime import Runtime


class Learner(Model):
    """A model that trains; see hermes.interface.Learner."""

    # process_group: hermes_torch's own, or SINGLE_PROCESS, of which only rank_info is read.
    def __init__(self, runtime: Runtime, state: TrainState, recipe: Recipe, process_group: Any):
        super().__init__(runtime)
        self._recipe, self._steps_done, self._process_group = recipe, state.step, process_group
        self._distributed = process_group.rank_info.world_size > 1
        self._trained = list_trainable(runtime.spec, recipe)
        has_dropout = runtime.spec.has_dropout or bool(recipe.lora and recipe.lora.dropout)
        # The reference of preferences has no dropout, so the policy compared with it has none.
        self._uses_dropout = has_dropout and recipe.objective != "preference"
        # The parameters themselves: FSDP registers others on the module while it is used.
        self._tensors = tensors = dict(runtime.module.named_parameters())
        for name, p in tensors.items():
            p.requires_grad_(name in self._trained)
        self._optimizer = Optimizer(runtime, state, recipe, tensors)
        self._norm = runtime.shards.global_norm if runtime.shards else global_norm
        self._scaler: LossScaler | None = None
        if runtime.dtype == torch.float16:
            self._scaler = LossScaler(state.loss_scale, recipe.loss_scaling, runtime.device)
        if self._distributed and runtime.kernels.flex:
            # Its shapes follow a rank's own documents: it would compile while the others wait.
            runtime.kernels.varlen = False
        self._number_copies = HostCopies(runtime.device)
        self._objective: Any = Objective(runtime, recipe)
        if self._distributed and not runtime.shards:
            self._objective = process_group.wrap(self._objective)
        self._compiled = compile_function(self._objective) if uses_compile(runtime) else None
        self._compiler_works = self._is_backward = False
        self._shapes: set[tuple[int, ...]] = set()  # of micro-batches so far
        self._first_norm: Array | None = None

    def _uses_compile(self) -> bool:
        return uses_compile(self.runtime)

    def _differentiate(
        self, arguments: tuple[Any, ...], count: float, is_last: bool
    ) -> tuple[Array, Any]:
        """Add a micro-batch's gradients to .grad; its part of the loss, and of pairs each row's.

        Compiled where that works: torch compiles the forward pass at its first call, and the
        backward pass at its own. Where the compiler is missing or fails, warns and runs without it.
        """
        if self._compiled is None:
            return self._run_passes(self._objective, arguments, count, is_last)
        self._is_backward = False
        try:
            result = self._run_passes(self._compiled, arguments, count, is_last)
            self._compiler_works = True
            return result
        except Exception as error:
            is_first_forward = not (self._compiler_works or self._is_backward)
            if not warn_compiler_failed(
                error,
                is_first_forward=is_first_forward,
                ends_on_interrupt=not self._compiler_works,
            ):
                raise
        self._compiled = None
        self.runtime.kernels.flex = False  # of the same compiler
        return self._run_passes(self._objective, arguments, count, is_last)

    def _run_passes(
        self, objective: Callable[..., Any], arguments: tuple[Any, ...], count: float, is_last: bool
    ) -> tuple[Array, Any]:
        """The forward and backward pass of a micro-batch."""
        with self._sync_gradients(is_last):
            loss, sums = objective(*arguments)
            # `count` is of all micro-batches and processes, so sums over those are the mean.
            factor = arguments[-1]
            mean = loss / count
            loss = mean if factor is None else loss * factor
            if is_last:
                # Its backward pass waits for the other processes: what a rank needs for its
                # own share is measured up to here.
                self._process_group.ready()
            self._is_backward = True
            loss.backward()
        return mean.detach(), sums

    def _accumulate(self, batch: Batch) -> tuple[Array, Array | None]:
        """Add the gradients of the batch's loss to .grad; return the loss, and rows asked for."""
        check_batch(batch, self._recipe)
        if batch.measures_noise and self.runtime.shards:
            raise Unsupported(
                "the noise of gradients is measured on whole ones, and shard splits them; leave "
                "out one of the two"
            )
        runtime, count = self.runtime, batch.counts.divisor
        runtime.tables.prepare(batch.tokens.shape[-1])
        total, rows = torch.zeros((), device=runtime.device), []
        # What the gradients are those of: under float16 not the mean loss, but its multiple.
        factor = None if self._scaler is None else self._scaler.scale / count
        self._first_norm = None
        row_keys = None
        if self._uses_dropout:
            row_keys = dropout_row_keys(self._recipe.seed, self._steps_done + 1, batch.rows)
        everywhere = self._uses_compile()
        micro_batches = iterate_micro_batches(
            runtime, batch, row_keys, factor, everywhere=everywhere
        )
        for a, arguments in enumerate(micro_batches):
            is_last = a == len(batch.tokens) - 1
            loss, sums = self._differentiate(arguments, count, is_last)
            total = total + loss
            rows.append(sums)
            if a == 0 and not is_last and batch.measures_noise:
                self._first_norm = self._measure_first()
        self._fill_missing_grads()
        if runtime.shards:
            runtime.shards.sum_vectors(self._tensors.values())
        if self._scaler is not None:
            self._scaler.unscale([runtime.to_local(g) for g in self._optimizer.grads])
        if self._distributed:
            self._process_group.sum_in_place(total)
        has_rows = batch.pairs is not None or batch.sources is not None
        return total, torch.stack(rows).detach() if has_rows else None

    def _measure_first(self) -> Array:
        """The norm of this process's gradients after its first micro-batch, without the loss scale.

        Nothing has been summed over processes yet, so each may have another.
        """
        tensors = (self._tensors[name].grad for name in self._optimizer.names)
        norm = global_norm([g for g in tensors if g is not None])
        return norm if self._scaler is None else norm / self._scaler.scale

    def _fill_missing_grads(self) -> None:
        """Give zeros to tensors that the loss does not depend on; torch leaves their .grad None.

        MLX has zeros there, and AdamW still decays such a weight and its moments.
        """
        for name in self._trained:
            p = self._tensors[name]
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad

    def _sync_gradients(self, is_last: bool) -> contextlib.AbstractContextManager:
        """A context in which backward() sums gradients over processes, if it is the last one."""
        if self.runtime.shards:
            self.runtime.shards.prepare_micro_batch(is_last=is_last)
            return contextlib.nullcontext()
        if self._distributed and not is_last:
            return self._objective.no_sync()
        return contextlib.nullcontext()

    def _watch(self, activity: str | None = None) -> contextlib.AbstractContextManager:
        """A context that raises PeerLost where another process is lost."""
        if not self._distributed:
            return contextlib.nullcontext()
        return self._process_group.watch(
            activity or f"the gradients of step {self._steps_done + 1}"
        )

    def _compiles_evaluation(self, tokens: NDArray[np.integer]) -> bool:
        """Of several processes, those evaluate compiled whose rows have a length of training's.

        One that compiled alone, for rows of its own, would keep the others waiting.
        """
        is_known = any(shape[-1] == tokens.shape[1] for shape in self._shapes)
        return super()._compiles_evaluation(tokens) and (is_known or not self._distributed)

    def loss(self, batch: Batch) -> float:
        """The batch's loss over all micro-batches, without dropout."""
        with self._watch(f"the evaluation of step {self._steps_done}"):
            return super().loss(batch)

    def preferences(self, batch: Batch) -> tuple[float, NDArray[np.floating]]:
        """A batch of pairs' loss, and each row's log-probability from the same pass. (A, B)"""
        with self._watch(f"the evaluation of step {self._steps_done}"):
            return super().preferences(batch)

    def _clear_grads(self) -> None:
        for p in self._tensors.values():
            p.grad = None

    def grads(self, batch: Batch) -> tuple[float, Tensors]:
        """The loss with the next step's dropout, and the gradient of every trained tensor."""
        self._clear_grads()
        with self.runtime.apply_options(), self._watch():
            loss = float(self._accumulate(batch)[0])
        grads = {
            name: self.runtime.to_numpy(get_grad(self._tensors[name])) for name in self._trained
        }
        self._clear_grads()
        return loss, grads

    def step(self, batch: Batch, lr: float) -> StepReport:
        """Take one optimizer step: gradients of all micro-batches, clipping, update."""
        is_new = self._meet_shape(batch)
        with self._expect_compiling() if is_new else contextlib.nullcontext():
            with self.runtime.apply_options(), self._watch():
                loss, rows = self._accumulate(batch)
                grads = self._optimizer.grads
                norm = self._norm(grads)
            # From here on nothing is read from the device: the norm clips, and skips the step where
            # it is not finite, without the host knowing it. Nor does a process wait for another,
            # unless a rule needs the whole of a sharded matrix.
            with self.runtime.apply_options(), torch.no_grad(), self._watch():
                finite = torch.isfinite(norm) & torch.isfinite(loss)
                self._steps_done += 1
                applied = is_applied(finite, loss, batch.loss_limit)
                self._optimizer.update(lr, self._steps_done, applied, norm)
                scale = None
                if self._scaler is not None:
                    scale = self._scaler.scale
                    self._scaler.update(finite)
                numbers = {
                    "loss": loss,
                    "grad_norm": norm,
                    "row_logprobs": rows,
                    "loss_scale": scale,
                    "first_norm": self._first_norm,
                    "applied": None if batch.loss_limit is None else applied,
                }
                known = {name: x for name, x in numbers.items() if x is not None}
                late = LateNumbers(self._number_copies, known)
            self._clear_grads()
            if is_new and self.runtime.device.type == "cpu":
                keep_freed_memory(self.runtime)
            report = {name: LateNumber(late, name) for name in known}
            ahead = self._number_copies.runs_ahead
            return StepReport(self._steps_done, **report, runs_ahead=ahead)

    def _meet_shape(self, batch: Batch) -> bool:
        """Whether a batch has a shape that no batch had before."""
        shape = batch.tokens.shape[1:]
        is_new = shape not in self._shapes
        self._shapes.add(shape)
        return is_new

    def _expect_compiling(self) -> contextlib.AbstractContextManager:
        """A context in which peers may be silent for long, as a batch has a shape that is new."""
        compiles = self._compiled is not None or (
            self.runtime.shards and self.runtime.shards.compiles
        )
        if not (self._distributed and compiles):
            return contextlib.nullcontext()
        return self._process_group.allow_compiling()

    @contextlib.contextmanager
    def use_average(self) -> Iterator[None]:
        """A context in which the model is the average of the weights, of a recipe with ema."""
        self._optimizer.swap_average()
        try:
            yield
        finally:
            self._optimizer.swap_average()

    def digests(self) -> Mapping[str, int]:
        """The sum of the words of each tensor and, times 2 and so on, of what is kept."""
        return self._optimizer.compute_digests()

    def state(self) -> TrainState:
        """Weights, what the optimizer keeps, and the number of steps taken."""
        scale = None if self._scaler is None else self._scaler.read()
        slots = self._optimizer.copy_slots()
        return TrainState.from_slots(self.params(), slots, self._steps_done, scale)
