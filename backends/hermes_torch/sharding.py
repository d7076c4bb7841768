"""A model split over processes by FSDP2: each holds a part of every matrix.

Vectors (norms, biases, slopes: under a thousandth of a model) are whole in every process, in
master precision, as they are used; their gradients are summed once an update.
"""

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from hermes.errors import Unsupported


class Shards:
    """How a module is split. full: gradients too, and matrices are gathered block by block.

    Else only what the optimizer needs is split: matrices are gathered once an update, for all of
    its micro-batches, and gradients are whole until the last of them.
    """

    def __init__(self, process_group, options):
        size, group = process_group.rank_info.world_size, options.shard_group
        if size == 1:
            raise Unsupported(
                f"shard {options.shard!r} splits a model over several processes, but this run has "
                "one; start more, or leave --shard out"
            )
        if options.compile:
            raise Unsupported("hermes_torch does not compile a model that is split; leave one out")
        if group is not None and (size % group or group < 2):
            raise Unsupported(
                f"shard_group is {group}; it must be at least 2 and divide the {size} processes"
            )
        self._full, self._processes = options.shard == "full", process_group
        self._mesh = process_group.mesh(group or size)

    def split(self, module, dtype, master):
        """Split a module that is not loaded yet, in place. dtype: of blocks' matrices in use."""
        vectors = {p for p in module.parameters() if p.ndim < 2}
        policy = MixedPrecisionPolicy()
        if dtype != master:
            policy = MixedPrecisionPolicy(dtype, reduce_dtype=master, cast_forward_inputs=False)
        for layer in module.model.layers:
            fully_shard(
                layer,
                mesh=self._mesh,
                reshard_after_forward=self._full,
                mp_policy=policy,
                ignored_params=vectors,
            )
        # Embeddings and head, which may be one: in use from the first to the last of a pass.
        fully_shard(module, mesh=self._mesh, reshard_after_forward=False, ignored_params=vectors)
        for part in module.modules():
            if isinstance(part, FSDPModule):
                # The loss is divided by the whole update, so gradients are sums.
                part.set_gradient_divide_factor(1.0)
                part.set_force_sum_reduction_for_comms(True)
        self._module = module

    def part(self, tensor):
        """This process's part of a whole tensor: of a matrix some rows, of a vector all."""
        if tensor.ndim < 2:
            return tensor
        placements = self._module.model.embed_tokens.weight.placements
        return distribute_tensor(tensor, self._mesh, placements, src_data_rank=None).clone()

    def local(self, tensor):
        """What this process holds of a tensor; nothing is sent."""
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def whole(self, tensor):
        """A tensor gathered in every process, which all ask for at once."""
        with self._processes.watched("the gathering of a tensor"):
            return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def before(self, last):
        """Called before each micro-batch; last: the update's last one."""
        if self._full:
            self._module.set_requires_all_reduce(last)
            return
        self._module.set_requires_gradient_sync(last)
        self._module.set_reshard_after_backward(last)

    def sum_vectors(self, tensors):
        """Sum the vectors' gradients over all processes, in place, in one message."""
        vectors = [p.grad for p in tensors if p.ndim < 2 and p.requires_grad]
        if vectors:
            held = torch.cat(vectors)
            dist.all_reduce(held)
            torch._foreach_copy_(vectors, list(held.split([len(g) for g in vectors])))

    def norm(self, grads):
        """The global norm of gradients of which some are split. -> ()."""
        whole = [g for g in grads if not isinstance(g, DTensor)]
        split = [g for g in grads if isinstance(g, DTensor)]
        norms = [torch.nn.utils.get_total_norm(whole)] if whole else []
        if split:
            norms.append(torch.nn.utils.get_total_norm(split).full_tensor())
        return torch.linalg.vector_norm(torch.stack(norms))

    def digests(self, words, tensors):
        """Numbers of this process's bits, those of matrices summed over all of their parts."""
        split = [word for word, p in zip(words, tensors, strict=True) if p.ndim > 1]
        with self._processes.watched("the comparison of weights"):
            held = torch.stack(split)
            dist.all_reduce(held, group=self._mesh.get_group(self._mesh.ndim - 1))
        sums = iter(held)
        return [next(sums) if p.ndim > 1 else word for word, p in zip(words, tensors, strict=True)]
