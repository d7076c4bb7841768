"""hermes.distributed.ProcessGroup on torch.distributed: NCCL between GPUs, gloo for all else."""

import contextlib
import datetime
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor as Array
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from hermes.distributed.process_group import RankInfo
from hermes.errors import PeerLost, Unsupported
from hermes_torch.rendezvous import Rendezvous, check_host, give_up, warn_while_waiting
from hermes_torch.side_group import SideGroup

FLIGHT_RECORDER_SIZE = "200"  # collectives that torch's flight recorder keeps
HISTORY_LINES = 20
# Seconds that NCCL waits longer than gloo, whose timeout can name the missing rank: NCCL's cannot.
NCCL_EXTRA_TIMEOUT = 30
# MB of gradients in a message. A compiled model is cut into a graph for each, and kernels do not
# fuse across the cuts: torch's 25 makes many, for messages shorter than fast links need.
BUCKET_MB = 200
# In the messages of RuntimeErrors by which gloo and NCCL report a lost peer.
LOST_PEER_WORDS = ("gloo", "NCCL", "Connection closed by peer", "Broken pipe")


class ProcessGroup:
    """The default process group, and the key-value store beside it."""

    def __init__(self, rank_info: RankInfo, device: str):
        self.rank_info, self.device = rank_info, torch.device(device)
        method = "env://"
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        if rank_info.rendezvous is not None:
            address = rank_info.rendezvous
            method = f"tcp://{address}?rank={rank_info.rank}&world_size={rank_info.world_size}"
        check_host(address, rank_info)
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.set_device(device)
        else:
            torch.set_num_threads(max(1, count_cores() // rank_info.local_world_size))
        # Read when the process group is made. By default the recorder is off.
        os.environ.setdefault("TORCH_FR_BUFFER_SIZE", FLIGHT_RECORDER_SIZE)
        try:
            with warn_while_waiting(address, rank_info):
                with give_up(address, rank_info):
                    limit = datetime.timedelta(seconds=rank_info.rendezvous_timeout)
                    store, _, _ = next(dist.rendezvous(method, timeout=limit))
                self._rendezvous = Rendezvous(store, rank_info, rank_info.rendezvous_timeout)
                dist.init_process_group(
                    "cpu:gloo,cuda:nccl" if cuda else "gloo",
                    store=self._rendezvous.store,
                    rank=rank_info.rank,
                    world_size=rank_info.world_size,
                    timeout=datetime.timedelta(seconds=rank_info.first_timeout),
                    # NCCL guesses it from the rank otherwise, and says so in a warning.
                    device_id=torch.device("cuda", torch.cuda.current_device()) if cuda else None,
                )
        except (dist.DistError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            if "EADDRINUSE" in reason:
                reason = f"{address} is in use; set MASTER_PORT to a free port, the same for all"
            raise PeerLost(
                f"rank {rank_info.rank} of {rank_info.world_size} did not find the other "
                f"processes: {reason}"
            ) from error
        self._activity = "the start"  # what a message about a lost peer says was going on
        self._groups: list[Any] = [dist.group.WORLD]
        self._meshes: dict[int, DeviceMesh] = {}
        self._side_group: SideGroup | None = None
        self._begun, self._busy = self._record_time(), 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._lost = self._is_first_done = False
        self._names: list[str] | None = None
        self._names = self.all_gather_text(f"host {socket.gethostname()}, process {os.getpid()}")

    def all_reduce_sum(self, numbers: Sequence[float]) -> list[float]:
        """Sum each number over all processes, in float64."""
        sums = torch.tensor(list(numbers), dtype=torch.float64)
        with self.watch():
            dist.all_reduce(sums)
        return sums.tolist()

    def all_reduce_max(self, number: float) -> float:
        """The largest of every process's number."""
        largest = torch.tensor([number], dtype=torch.float64)
        with self.watch():
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest.item()

    def all_gather_text(self, text: str) -> list[str]:
        """Every process's text, by rank."""
        # Not all_gather_object, which pickles; and a collective wants one size from all.
        raw = torch.frombuffer(bytearray(text.encode() or b"\0"), dtype=torch.uint8)
        size = len(text.encode())
        with self.watch():
            sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.rank_info.world_size)]
            dist.all_gather(sizes, torch.tensor([size]))
            longest = max(1, *(int(one) for one in sizes))
            padded = torch.zeros(longest, dtype=torch.uint8)
            padded[: len(raw)] = raw
            texts = [torch.zeros(longest, dtype=torch.uint8) for _ in sizes]
            dist.all_gather(texts, padded)
        return [bytes(one[: int(n)].tolist()).decode() for one, n in zip(texts, sizes, strict=True)]

    def time_all_reduce(self, count: int) -> tuple[float, bool]:
        """Sum `count` float32 over all processes on their devices: seconds, and if it was right."""
        values = torch.full((count,), float(self.rank_info.rank + 1), device=self.device)
        with self.watch("a sum that is timed"):
            self.all_reduce_max(0)  # a barrier, so that nobody's start is timed
            begun = time.perf_counter()
            dist.all_reduce(values)
            if values.is_cuda:
                torch.cuda.synchronize()
            seconds = time.perf_counter() - begun
        expected = self.rank_info.world_size * (self.rank_info.world_size + 1) // 2
        return seconds, bool((values == expected).all())

    def diagnostics(self) -> list[str]:
        """GPUs of this machine that cannot read each other's memory."""
        if self.device.type != "cuda":
            return []
        own = self.device.index
        others = [i for i in range(torch.cuda.device_count()) if i != own]
        unreachable = [i for i in others if not torch.cuda.can_device_access_peer(own, i)]
        if not unreachable:
            return []
        return [
            f"GPU {own} cannot read the memory of GPU {', '.join(map(str, unreachable))}; if NCCL "
            "hangs, set NCCL_P2P_DISABLE=1, and NCCL_SHM_DISABLE=1 where /dev/shm is small; "
            "NCCL_DEBUG=INFO says what it chose"
        ]

    def mark_first_step_done(self) -> None:
        """From now on a peer is lost after `timeout` seconds of silence, not `first_timeout`."""
        self._is_first_done = True
        self._limit_silence(self.rank_info.timeout)

    @contextlib.contextmanager
    def allow_compiling(self) -> Iterator[None]:
        """A context in which peers may be silent for as long as in the first step."""
        if self._is_first_done:
            self._limit_silence(self.rank_info.first_timeout)
        try:
            yield
        finally:
            if self._is_first_done:
                self._limit_silence(self.rank_info.timeout)

    def _limit_silence(self, seconds: float) -> None:
        # torch has no public way to change the timeout of a group; torchtitan calls the same.
        for group in self._groups:
            dist.distributed_c10d._set_pg_timeout(datetime.timedelta(seconds=seconds), group)
            if self.device.type == "cuda":
                later = datetime.timedelta(seconds=seconds + NCCL_EXTRA_TIMEOUT)
                group._get_backend(self.device)._set_default_timeout(later)

    def begin(self) -> None:
        """Note the time at which every process begins its share of a step."""
        self._begun = self._record_time()

    def ready(self) -> None:
        """Note that this process's share is computed, or queued on the device."""
        if self.device.type == "cuda":
            self._events.append((self._begun, self._record_time()))
        else:
            self._busy += self._record_time() - self._begun

    def busy_seconds(self) -> float:
        """Seconds from begin to ready since the last call, without waiting for other ranks.

        On CUDA of those steps that the device has finished: it is not waited for.
        """
        while self._events and self._events[0][1].query():
            begun, ended = self._events.pop(0)
            self._busy += begun.elapsed_time(ended) / 1e3
        busy, self._busy = self._busy, 0.0
        return busy

    def _record_time(self) -> Any:
        """Seconds, or on CUDA an event in the stream: the host runs ahead of the device."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def history(self) -> str:
        """The last collectives in torch's flight recorder, one in a line."""
        # Private, and only this one as JSON: torch's other dump is a pickle.
        dump = torch._C._distributed_c10d._dump_fr_trace_json()  # type: ignore[attr-defined]
        entries = json.loads(dump)["entries"]
        return "\n".join(
            f"{one['op_id']} {one['profiling_name']} {one['input_dtypes']} {one['input_sizes']} "
            f"{one['state']}"
            for one in entries[-HISTORY_LINES:]
        )

    def leave(self, sentence: str) -> None:
        """Tell the other processes why this one ends."""
        self._rendezvous.tell(sentence)

    def close(self) -> None:
        """Leave the process group, without waiting for anyone."""
        if not dist.is_initialized():
            return
        if self._lost and self.device.type == "cuda":
            # Private. destroy_process_group waits for pending NCCL operations, and those with a
            # lost peer never end.
            dist.distributed_c10d._abort_process_group()
        else:
            dist.destroy_process_group()

    def sum_in_place(self, tensor: Array) -> None:
        """Sum a tensor over all processes. On CUDA it is queued, and the host does not wait."""
        with self.watch():
            dist.all_reduce(tensor)

    def wrap(self, module: torch.nn.Module) -> DistributedDataParallel:
        """Wrap a module so that its backward pass sums gradients over all processes meanwhile."""
        # No init_sync: all ranks have loaded the same weights, and rank 0's need not be sent.
        wrapped = DistributedDataParallel(
            module, init_sync=False, gradient_as_bucket_view=True, bucket_cap_mb=BUCKET_MB
        )
        wrapped.register_comm_hook(None, _sum_bucket)
        return wrapped

    def get_mesh(self, group_size: int) -> DeviceMesh:
        """All processes as a mesh of one row, or of rows of `group_size` neighbours."""
        if group_size in self._meshes:
            return self._meshes[group_size]
        rows = self.rank_info.world_size // group_size
        shape: tuple[int, ...] = (rows, group_size)
        names: tuple[str, ...] = ("rows", "group")
        if rows == 1:
            shape, names = shape[1:], names[1:]
        mesh = init_device_mesh(self.device.type, shape, mesh_dim_names=names)
        # A mesh makes groups of its own, whose timeouts have to change as well.
        self._groups += [one for one in mesh.get_all_groups() if one not in self._groups]
        self._meshes[group_size] = mesh
        return mesh

    def open_side_group(self) -> SideGroup:
        """The same processes for another thread; all of them make it, at the first call."""
        if self._side_group is None:
            with self.watch("the making of a second group"):
                self._side_group = SideGroup(self.rank_info)
        return self._side_group

    @contextlib.contextmanager
    def watch(self, activity: str | None = None) -> Iterator[None]:
        """A context in which a peer that died or fell silent raises PeerLost, with its name."""
        self._activity = activity or self._activity
        try:
            yield
        except RuntimeError as error:
            lost = any(word in str(error) for word in LOST_PEER_WORDS)
            if isinstance(error, dist.DistError) or lost:
                raise self._name_lost_peers(error) from error
            raise

    def _name_lost_peers(self, error: RuntimeError) -> PeerLost:
        """PeerLost with the names of those that do not answer; every survivor calls this."""
        self._lost = True
        lost = self._rendezvous.call_roll()
        # gloo's messages begin with a place in its source and end with advice.
        reason = re.sub(r".*\.cc:\d+\] ", "", str(error).strip().splitlines()[0])
        reason, where = reason.partition(". ")[0], f"in {self._activity}"
        if not lost or self._names is None:
            return PeerLost(f"the processes lost each other {where}: {reason}")
        names = ", ".join(f"rank {r} ({self._names[r]})" for r in lost)
        left = next((f"; it said: {sentence}" for sentence in lost.values() if sentence), "")
        message = f"{names} died or fell silent {where}, seen by rank {self.rank_info.rank}"
        return PeerLost(
            f"{message}: {reason}{left}",
            reported_by=min(set(range(self.rank_info.world_size)) - set(lost)),
        )


def count_cores() -> int:
    """Processors that this process may use; all of the machine's on macOS, which knows no other."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _sum_bucket(_: object, bucket: dist.GradBucket) -> torch.futures.Future[Array]:
    """DDP's hook: sum gradients, where DDP would average. The loss is divided by all targets."""
    future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return future.then(lambda done: done.value()[0])


def join(rank_info: RankInfo, device: str) -> ProcessGroup:
    """Join the other processes. Raises PeerLost and Unsupported."""
    if not dist.is_available():
        raise Unsupported("this build of torch has no torch.distributed")
    if dist.is_initialized():
        raise Unsupported("this process has joined others already; a process joins once")
    return ProcessGroup(rank_info, device)
