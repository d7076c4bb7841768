"""Processes that meet through torch.distributed: NCCL between GPUs, gloo for everything else."""

import contextlib
import datetime
import json
import os
import re
import socket
import time

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from hermes.errors import PeerLost, Unsupported
from hermes_torch.rendezvous import Rendezvous, check_host, give_up, warn_while_waiting

REMEMBERED = "200"  # collectives that torch's flight recorder keeps
SHOWN = 20
# Seconds that NCCL waits longer: what runs out first is gloo's, which can say who is missing.
AFTER_GLOO = 30
WORDS = ("gloo", "NCCL", "Connection closed by peer", "Broken pipe")


class ProcessGroup:
    """The default process group and the store beside it."""

    def __init__(self, rank_info, device):
        self.rank_info, self._device = rank_info, torch.device(device)
        method, where = "env://", f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        if rank_info.rendezvous is not None:
            where = rank_info.rendezvous
            method = f"tcp://{where}?rank={rank_info.rank}&world_size={rank_info.world_size}"
        check_host(where, rank_info)
        wait = datetime.timedelta(seconds=rank_info.first_timeout)
        cuda = self._device.type == "cuda"
        if cuda:
            torch.cuda.set_device(device)
        else:
            torch.set_num_threads(max(1, cores() // rank_info.local_world_size))
        os.environ.setdefault("TORCH_FR_BUFFER_SIZE", REMEMBERED)
        try:
            with warn_while_waiting(where, rank_info):
                with give_up(where, rank_info):
                    patience = datetime.timedelta(seconds=rank_info.rendezvous_timeout)
                    store, _, _ = next(dist.rendezvous(method, timeout=patience))
                self._meeting = Rendezvous(store, rank_info, rank_info.rendezvous_timeout)
                dist.init_process_group(
                    "cpu:gloo,cuda:nccl" if cuda else "gloo",
                    store=self._meeting.store,
                    rank=rank_info.rank,
                    world_size=rank_info.world_size,
                    timeout=wait,
                )
        except (dist.DistError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            if "EADDRINUSE" in reason:
                reason = f"{where} is in use; set MASTER_PORT to a free port, the same for all"
            raise PeerLost(
                f"rank {rank_info.rank} did not meet the other {rank_info.world_size - 1} "
                f"processes: {reason}"
            ) from error
        self._doing, self._groups, self._meshes = "the start", [dist.group.WORLD], {}
        self._begun, self._own, self._events = self._moment(), 0.0, []
        self._lost = False
        self._names = self.all_gather_text(f"host {socket.gethostname()}, process {os.getpid()}")

    def all_reduce_sum(self, numbers):
        """The sum of each number over all processes, in float64."""
        found = torch.tensor(list(numbers), dtype=torch.float64)
        with self.watched():
            dist.all_reduce(found)
        return found.tolist()

    def all_reduce_max(self, number):
        """The largest of every process's number."""
        found = torch.tensor([number], dtype=torch.float64)
        with self.watched():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return found.item()

    def all_gather_text(self, text):
        """Every process's text, by rank."""
        raw = torch.frombuffer(bytearray(text.encode() or b"\0"), dtype=torch.uint8)
        size = len(text.encode())
        with self.watched():
            sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.rank_info.world_size)]
            dist.all_gather(sizes, torch.tensor([size]))
            room = max(1, *(int(one) for one in sizes))
            held = torch.zeros(room, dtype=torch.uint8)
            held[: len(raw)] = raw
            found = [torch.zeros(room, dtype=torch.uint8) for _ in sizes]
            dist.all_gather(found, held)
        return [bytes(one[: int(n)].tolist()).decode() for one, n in zip(found, sizes, strict=True)]

    def timed_sum(self, count):
        """Seconds to sum `count` float32 over all processes on their devices; was it right?"""
        held = torch.full((count,), float(self.rank_info.rank + 1), device=self._device)
        with self.watched("a sum that is timed"):
            self.all_reduce_max(0)  # all begin together
            begun = time.perf_counter()
            dist.all_reduce(held)
            if held.is_cuda:
                torch.cuda.synchronize()
            seconds = time.perf_counter() - begun
        wanted = self.rank_info.world_size * (self.rank_info.world_size + 1) // 2
        return seconds, bool((held == wanted).all())

    def diagnostics(self):
        """GPUs of this machine that cannot read each other's memory."""
        if self._device.type != "cuda":
            return []
        here = self._device.index
        others = [i for i in range(torch.cuda.device_count()) if i != here]
        blind = [i for i in others if not torch.cuda.can_device_access_peer(here, i)]
        if not blind:
            return []
        return [
            f"GPU {here} cannot read the memory of GPU {', '.join(map(str, blind))}; if NCCL "
            "hangs, set NCCL_P2P_DISABLE=1, and NCCL_SHM_DISABLE=1 where /dev/shm is small; "
            "NCCL_DEBUG=INFO says what it chose"
        ]

    def mark_first_step_done(self):
        """From now on a silence of place.timeout is too long."""
        # torch has no public name for it; torchtitan calls the same.
        for group in self._groups:
            dist.distributed_c10d._set_pg_timeout(
                datetime.timedelta(seconds=self.rank_info.timeout), group
            )
            if self._device.type == "cuda":
                later = datetime.timedelta(seconds=self.rank_info.timeout + AFTER_GLOO)
                group._get_backend(self._device)._set_default_timeout(later)

    def begin(self):
        """All begin their share of an update."""
        self._begun = self._moment()

    def ready(self):
        """This process's share is computed, or queued on the device."""
        if self._device.type == "cuda":
            self._events.append((self._begun, self._moment()))
        else:
            self._own += self._moment() - self._begun

    def busy_seconds(self):
        """Seconds of its own since it was last asked."""
        while self._events and self._events[0][1].query():
            begun, ended = self._events.pop(0)
            self._own += begun.elapsed_time(ended) / 1e3
        own, self._own = self._own, 0.0
        return own

    def _moment(self):
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def history(self):
        """What torch's flight recorder holds of the last collectives, one in a line."""
        held = json.loads(torch._C._distributed_c10d._dump_fr_trace_json())
        return "\n".join(
            f"{one['op_id']} {one['profiling_name']} {one['input_dtypes']} {one['input_sizes']} "
            f"{one['state']}"
            for one in held["entries"][-SHOWN:]
        )

    def leave(self, sentence):
        """Tell the others why this process ends."""
        self._meeting.tell(sentence)

    def close(self):
        """Part, without waiting for anyone."""
        if not dist.is_initialized():
            return
        if self._lost and self._device.type == "cuda":
            # What NCCL still waits for will not come, and an orderly end would wait with it.
            dist.distributed_c10d._abort_process_group()
        else:
            dist.destroy_process_group()

    def summed(self, tensor):
        """The tensor's sum over all processes, in place; the device does not wait for it."""
        with self.watched():
            dist.all_reduce(tensor)
        return tensor

    def wrapped(self, module):
        """The module with gradients that are summed over all processes while they are computed."""
        wrapped = DistributedDataParallel(module, init_sync=False, gradient_as_bucket_view=True)
        wrapped.register_comm_hook(None, _sum)
        return wrapped

    def mesh(self, group):
        """All processes, in rows of `group` neighbours where that is not all of them."""
        if group in self._meshes:
            return self._meshes[group]
        rows = self.rank_info.world_size // group
        shape, names = ((rows, group), ("rows", "group")) if rows > 1 else ((group,), ("group",))
        made = init_device_mesh(self._device.type, shape, mesh_dim_names=names)
        self._groups += [one for one in made.get_all_groups() if one not in self._groups]
        self._meshes[group] = made
        return made

    @contextlib.contextmanager
    def watched(self, doing=None):
        """In its block a peer that died or fell silent becomes PeerLost, with its name."""
        self._doing = doing or self._doing
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, dist.DistError) or any(word in str(error) for word in WORDS):
                raise self._missed(error) from error
            raise

    def _missed(self, error):
        """PeerLost with the names of those that do not answer; every survivor comes here."""
        self._lost = True
        lost = self._meeting.roll_call()
        # gloo begins with the place in its own source and ends with advice.
        reason = re.sub(r".*\.cc:\d+\] ", "", str(error).strip().splitlines()[0])
        reason, where = reason.partition(". ")[0], f"in {self._doing}"
        if not lost or not hasattr(self, "_names"):
            return PeerLost(f"the processes lost each other {where}: {reason}")
        names = ", ".join(f"rank {r} ({self._names[r]})" for r in lost)
        said = next((f"; it said: {words}" for words in lost.values() if words), "")
        sentence = f"{names} died or fell silent {where}, seen by rank {self.rank_info.rank}"
        return PeerLost(
            f"{sentence}: {reason}{said}",
            reported_by=min(set(range(self.rank_info.world_size)) - set(lost)),
        )


def cores():
    """Processors that this process may use; macOS knows only how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _sum(_, bucket):
    """A bucket's gradients, summed and not averaged: the loss is divided by the whole update."""
    future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return future.then(lambda done: done.value()[0])


def join(rank_info, device):
    """Meet the others."""
    if not dist.is_available():
        raise Unsupported("this build of torch has no torch.distributed")
    if dist.is_initialized():
        raise Unsupported("this process has joined others already; a process joins once")
    return ProcessGroup(rank_info, device)
