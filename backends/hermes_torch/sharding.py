"""A model sharded over processes by FSDP2: each process holds some rows of every matrix.

Vectors (norms, biases, slopes: under a thousandth of a model) are whole in every process, in
master precision, as the forward pass uses them; their gradients are summed once per step.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor as Array
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import Parameter

from hermes.errors import Unsupported
from hermes.interface import Options
from hermes_torch.compiler import can_compile, compile_blocks
from hermes_torch.model import Transformer


class Shards:
    """How a module is sharded, by options.shard.

    'full': parameters, gradients and moments; each block's matrices are gathered when it runs, and
    freed after. 'optimizer': masters and moments; matrices are gathered once per step, for all of
    its micro-batches, and gradients are whole until the last of them. compiles: whether each block
    is compiled, without what gathers its matrices: the blocks of one shape share what is compiled.
    """

    # process_group: hermes_torch's own, or SINGLE_PROCESS, which is refused.
    def __init__(self, process_group: Any, options: Options):
        size, group = process_group.rank_info.world_size, options.shard_group
        if size == 1:
            raise Unsupported(
                f"shard {options.shard!r} splits a model over several processes, but this run has "
                "one; start more, or leave --shard out"
            )
        if options.compile and options.selective_checkpoint:
            raise Unsupported(
                "blocks of a model that is split are compiled each by itself, and what happens "
                "inside one is not kept; leave out --compile or --selective-checkpoint"
            )
        self.compiles = bool(options.compile)
        if options.compile is None and not options.selective_checkpoint:
            # Tried beforehand: a pass that fails in its middle leaves the other ranks waiting.
            self.compiles = process_group.device.type == "cuda" and can_compile("cuda")
        if group is not None and (size % group or group < 2):
            raise Unsupported(
                f"shard_group is {group}; it must be at least 2 and divide the {size} processes"
            )
        self._full, self._process_group = options.shard == "full", process_group
        self._mesh = process_group.get_mesh(group or size)
        self._holders, self._side_group = group or size, process_group.open_side_group()

    def split(self, module: Transformer, dtype: torch.dtype, master: torch.dtype) -> None:
        """Shard a module whose parameters are not loaded yet. dtype: of matrices when gathered."""
        vectors = {p for p in module.parameters() if p.ndim < 2}
        policy = MixedPrecisionPolicy()
        if dtype != master:
            policy = MixedPrecisionPolicy(dtype, reduce_dtype=master, cast_forward_inputs=False)
        if self.compiles:
            compile_blocks(module.model.layers)
        for layer in module.model.layers:
            fully_shard(
                layer,
                mesh=self._mesh,
                reshard_after_forward=self._full,
                mp_policy=policy,
                ignored_params=vectors,
            )
        # What is left: embeddings and head, one matrix if tied, so in use throughout a pass. They
        # stay in master precision: the loss and the embedding cast them where they use them.
        fully_shard(module, mesh=self._mesh, reshard_after_forward=False, ignored_params=vectors)
        for part in module.modules():
            if isinstance(part, FSDPModule):
                # FSDP averages over processes; the loss is divided by the step's targets already.
                part.set_gradient_divide_factor(1.0)
                # A factor of one's own is applied by NCCL's PreMulSum, which gloo does not have.
                part.set_force_sum_reduction_for_comms(True)
        self._module: Any = module

    def take_shard(self, tensor: Array) -> Array:
        """This process's shard of a whole tensor: some rows of a matrix, all of a vector."""
        if tensor.ndim < 2:
            return tensor
        placements = self._module.model.embed_tokens.weight.placements
        # Every process has the whole tensor, so none has to send it (src_data_rank=None). The
        # shard is a view: the copy lets go of the rest.
        return distribute_tensor(tensor, self._mesh, placements, src_data_rank=None).clone()

    def find_first_row(self, tensor: Array) -> int:
        """The first of this process's rows of a sharded matrix; 0 where it has none."""
        rows = self.to_local(self.take_shard(torch.arange(tensor.shape[0])[:, None]))
        return int(rows[0]) if len(rows) else 0

    def join_like(self, local: Array, tensor: Array) -> Array:
        """A tensor of which this process has `local`, sharded as another of its shape is."""
        if not isinstance(tensor, DTensor):
            return local
        mesh, shape, stride = tensor.device_mesh, tensor.shape, tensor.stride()
        return DTensor.from_local(
            local, mesh, tensor.placements, run_check=False, shape=shape, stride=stride
        )

    def forget_gathered(self) -> None:
        """Free gathered matrices: a pass without a backward one keeps some, for the next pass."""
        for part in self._module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()

    @contextlib.contextmanager
    def decode(self) -> Iterator[None]:
        """A block of a pass of decoding, of whose shapes none is compiled.

        FSDP keeps tensors for the next training pass, which takes none of inference mode.
        """
        stance = torch.compiler.set_stance("force_eager" if self.compiles else "default")
        watch = self._process_group.watch("the writing of a text")
        with torch.inference_mode(False), torch.no_grad(), stance, watch:
            yield

    def send_from_first(self, tensor: Array) -> Array:
        """What the first process has, in every process, so that all choose the same token."""
        tensor = tensor.contiguous()
        dist.broadcast(tensor, 0)
        return tensor

    def to_local(self, tensor: Array) -> Array:
        """The part of a tensor that this process holds; nothing is communicated."""
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def gather(self, tensor: Array) -> Array:
        """The whole of a tensor, in every process; a collective, so all call it together."""
        with self._process_group.watch("the gathering of a tensor"):
            return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def stage(self, tensor: Array, read: Callable[[], Array]) -> Callable[[], Array]:
        """What gathers a tensor of which read() is this process's part, in rank 0 alone.

        It is a collective of the side group, so that another thread may call it, in all processes.
        """
        if not isinstance(tensor, DTensor):
            return read
        rows = tensor.shape[0]
        return lambda: self._side_group.gather_rows(read(), rows, self._holders)

    def prepare_micro_batch(self, *, is_last: bool) -> None:
        """Set what the next backward pass communicates; is_last: whether it is the step's last."""
        if self._full:
            # Gradients are reduced to shards each time, to free the whole ones; the sum over
            # groups (where shard_group makes several) waits for the last.
            self._module.set_requires_all_reduce(is_last)
            return
        self._module.set_requires_gradient_sync(is_last)
        self._module.set_reshard_after_backward(is_last)

    def sum_vectors(self, tensors: Iterable[Parameter]) -> None:
        """Sum the gradients of vectors over all processes, in place, in one message."""
        vectors = [p.grad for p in tensors if p.ndim < 2 and p.grad is not None]
        if vectors:
            flat = torch.cat(vectors)
            dist.all_reduce(flat)
            # Private, as are all of torch's functions of many tensors: one kernel for all copies.
            torch._foreach_copy_(vectors, list(flat.split([len(g) for g in vectors])))

    def global_norm(self, grads: Iterable[Array]) -> Array:
        """The L2 norm of all gradients as one vector, of which some are sharded. -> ()."""
        grads = list(grads)
        whole = [g for g in grads if not isinstance(g, DTensor)]
        split = [g for g in grads if isinstance(g, DTensor)]
        norms = [torch.nn.utils.get_total_norm(whole)] if whole else []
        if split:
            norm: Any = torch.nn.utils.get_total_norm(split)  # a DTensor
            norms.append(norm.full_tensor())
        return torch.linalg.vector_norm(torch.stack(norms))

    def sum_digests(self, digests: Sequence[Array], tensors: Iterable[Array]) -> list[Array]:
        """Sum the digests of shards over the processes that share a matrix; vectors' stay."""
        tensors = list(tensors)
        split = [digest for digest, p in zip(digests, tensors, strict=True) if p.ndim > 1]
        with self._process_group.watch("the comparison of weights"):
            sums = torch.stack(split)
            dist.all_reduce(sums, group=self._mesh.get_group(self._mesh.ndim - 1))
        summed: Iterator[Array] = iter(sums)
        return [
            next(summed) if p.ndim > 1 else digest
            for digest, p in zip(digests, tensors, strict=True)
        ]
