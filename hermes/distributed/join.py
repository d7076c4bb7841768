"""Joins this process to the ranks that a launcher started with it.

Knows torchrun, srun, mpirun and mlx.launch by the variables that they set. Both the library and the
command line train through here, so that no rank ever trains alone by accident.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar

from hermes.distributed.environment import MEANT, OWN, detect_launcher, read_rank_info
from hermes.distributed.process_group import (
    DEFAULT_TIMEOUT,
    SINGLE_PROCESS,
    ProcessGroup,
    RankInfo,
)
from hermes.errors import HermesError
from hermes.formatting import format_count

__all__ = [
    "choose_backend_name",
    "find_rank_info",
    "join_ranks",
    "join_watched",
    "set_timeouts",
]

# Seconds, at least: until the first step is done a rank may read, tokenize and compile.
FIRST_TIMEOUT, RENDEZVOUS_TIMEOUT = 600.0, 60.0
LONGEST_TIMEOUT = 1_000_000


class _Options(Protocol):
    """What is known here of hermes.interface.Options, which stands above this package."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def device(self) -> str | None: ...


OptionsT = TypeVar("OptionsT", bound=_Options)
OptionsT_contra = TypeVar("OptionsT_contra", bound=_Options, contravariant=True)


class _Backend(Protocol[OptionsT_contra]):
    """What is known here of hermes.interface.Backend."""

    def devices(self) -> tuple[str, ...]: ...

    def join(self, rank_info: RankInfo, options: OptionsT_contra = ...) -> ProcessGroup: ...


def choose_backend_name(name: str, environment: Mapping[str, str]) -> str:
    """The backend's name; "auto" becomes the one whose processes a launcher started, if any did.

    Raises HermesError where the launcher's processes cannot be this backend's.
    """
    launcher = detect_launcher(environment) or ""
    meant, rank_info = MEANT.get(launcher), read_rank_info(environment)
    if meant is None or rank_info is None or name == meant:
        return name
    if name == "auto":
        return meant
    if launcher == "mpirun" and rank_info.rendezvous is None:
        raise HermesError(
            f"mpirun does not say where processes of {name} meet; set MASTER_ADDR and MASTER_PORT, "
            "or start them by torchrun, srun or --num-gpus"
        )
    if launcher != "mpirun":
        others = {"torch": "torchrun, srun or --num-gpus", "mlx": "mlx.launch or --num-processes"}
        raise HermesError(
            f"{launcher} starts processes of {meant}, and --backend is {name}; leave it out, or "
            f"start {name} by {others.get(name, 'itself, in one process')}"
        )
    return name


def set_timeouts(
    rank_info: RankInfo, timeout: float | None, name: str = "peer_timeout"
) -> RankInfo:
    """A rank with the timeouts of a run. Raises HermesError for one that no wait could have.

    timeout: seconds of silence after which a rank counts as lost; None for DEFAULT_TIMEOUT, which
    does not bound what may as well be work. name: what it is called by whoever set it.
    """
    seconds = DEFAULT_TIMEOUT if timeout is None else timeout
    if not 0 < seconds <= LONGEST_TIMEOUT:
        raise HermesError(
            f"{name} must be above 0 and at most {LONGEST_TIMEOUT:,} seconds, got {seconds:g}"
        )
    return replace(
        rank_info,
        timeout=seconds,
        is_timeout_given=timeout is not None,
        first_timeout=max(seconds, FIRST_TIMEOUT),
        rendezvous_timeout=max(seconds, RENDEZVOUS_TIMEOUT),
    )


def find_rank_info(environment: Mapping[str, str], timeout: float | None) -> RankInfo | None:
    """This process's rank, None where no launcher started others. Raises HermesError.

    timeout: as of `set_timeouts`.
    """
    rank_info = read_rank_info(environment)
    limited = set_timeouts(rank_info or RankInfo(), timeout)  # refused for one process, too
    return limited if rank_info else None


def join_ranks(
    rank_info: RankInfo | None, backend: _Backend[OptionsT], options: OptionsT
) -> tuple[ProcessGroup, OptionsT]:
    """Meet the other ranks; the process group, and the options with this rank's device.

    rank_info None: a single process. Raises HermesError, PeerLost, and Unsupported.
    """
    if rank_info is None:
        return SINGLE_PROCESS, options
    gpus = [name for name in backend.devices() if name.startswith("cuda:")]
    if gpus and options.device in (None, "cuda"):
        if rank_info.local_rank >= len(gpus):
            raise HermesError(
                f"{format_count(rank_info.local_world_size, 'processes', 'process')} on this "
                f"machine, but {format_count(len(gpus), 'GPUs')}; start as many processes as GPUs, "
                "or give --device cpu"
            )
        options = replace(options, device=gpus[rank_info.local_rank])
    return backend.join(rank_info, options), options


def join_watched(
    rank_info: RankInfo | None,
    backend: _Backend[OptionsT],
    options: OptionsT,
    environment: Mapping[str, str],
    option: str = "peer_timeout",
) -> tuple[ProcessGroup, OptionsT, Callable[[], None]]:
    """join_ranks, and from then on a watch on this thread until the first step is done.

    The watch ends the process where the thread hangs; workers of hermes's own launcher are watched
    by it. option: what the timeout is called by whoever set it. -> also a function that ends the
    watch. Raises as join_ranks.
    """
    if rank_info is None or OWN in environment:
        return *join_ranks(rank_info, backend, options), lambda: None
    from hermes.distributed.beat_channel import open_channel
    from hermes.distributed.start_watch import StartWatch

    watches: list[StartWatch] = []

    def end_watch() -> None:
        for watch in watches:
            watch.stop()

    def end() -> None:
        end_watch()
        rank_info.on_first_step()

    group, options = join_ranks(replace(rank_info, on_first_step=end), backend, options)
    watches.append(StartWatch(rank_info, option, open_channel(rank_info, group.all_gather_text)))
    watches[0].start()
    return group, options, end_watch
