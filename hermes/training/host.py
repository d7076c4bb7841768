"""The program around a run: it joins the ranks, tells its user what happens, and may stop it."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hermes.arguments import Call, check_verbosity
from hermes.chat_templates.example import Example
from hermes.distributed.join import choose_backend_name, find_rank_info, join_watched
from hermes.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from hermes.interface import Backend, Options, choose_backend
from hermes.model_info.devices import choose_device
from hermes.stage_display import show_progress
from hermes.tokenizer import Tokenizer
from hermes.training.finish_command import FinishCommand
from hermes.training.hub_upload import HubUploads, read_push, require_writable_repo
from hermes.training.run_precision import choose_run_precision

if TYPE_CHECKING:
    from hermes.recipe import Recipe
    from hermes.spec import ModelSpec
    from hermes.training.request import RunRequest
    from hermes.training.run import Run

__all__ = ["RunHost", "join_host", "make_options", "tell_warning"]

MakeSettings = Callable[[Call], tuple[Mapping[str, object], Mapping[str, str]]]


def _tell_nothing(line: str) -> None:
    pass


def tell_warning(line: str) -> None:
    """Show a line where it is a warning."""
    if line.startswith("Warning: "):
        print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class RunHost:
    """How a program such as the command line takes part in a run: its ranks and its callbacks.

    options: with this rank's device. make_settings: makes RunRequest's settings and sources, None
    for those of the call. edits: recipe fields set by other means than arguments. tell: given lines
    for the user. on_model: RunRequest's. on_prepared: called with the run before its model is
    built; on_open: once nothing can refuse it. show_example: shows a conversation as it is trained
    on, None for the usual way. split_among: the ranks that batch_size and grad_accum are meant for,
    None for the current ones. stop: polled after every step, besides the caller's own. uploads:
    pushes the model to the Hub.
    """

    backend: Backend
    options: Options
    process_group: ProcessGroup = SINGLE_PROCESS
    make_settings: MakeSettings | None = None
    edits: Mapping[str, object] = field(default_factory=dict)
    split_among: int | None = None
    tell: Callable[[str], None] = _tell_nothing
    on_model: "Callable[[RunRequest, ModelSpec, Recipe], None]" = lambda request, spec, recipe: None
    on_prepared: "Callable[[Run], None]" = lambda run: None
    on_open: "Callable[[Run], None]" = lambda run: None
    show_example: Callable[[Tokenizer, Example], None] | None = None
    stop: Callable[[], bool] = lambda: False
    uploads: HubUploads | None = None

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes the run's folder and speaks for all."""
        return self.process_group.rank_info.rank == 0


@contextmanager
def join_host(call: Call) -> Iterator[RunHost]:
    """The host of a call: the one it was given, or that of a script or notebook.

    The latter joins the ranks that a launcher started, and parts from them at the block's end.
    Raises HermesError, PeerLost, and Unsupported.
    """
    if call["host"] is not None:
        yield call["host"]
        return
    push = read_push(call["push_to_hub"], call["push_every_save"])
    name = choose_backend_name(call["backend"], os.environ)
    rank_info = find_rank_info(os.environ, call["peer_timeout"])
    check_verbosity(call["verbose"], call["quiet"])
    progress = False if call["quiet"] else call["progress"]
    leads = rank_info is None or rank_info.rank == 0
    with show_progress(progress if leads else False):
        backend = choose_backend(name)
        options = make_options(call.values, backend)
        joined = join_watched(rank_info, backend, options, os.environ)
        process_group, options, end_watch = joined
        tell = _choose_tell(progress, process_group, quiet=call["quiet"])
        host = RunHost(backend, options, process_group, tell=tell)
        command = call["on_finish"] if host.leads and not call["dry_run"] else ""
        finish = FinishCommand(command, call["output"], tell)
        with finish, HubUploads(push, tell) as uploads, closing(process_group):
            try:
                require_writable_repo(push, process_group)
                yield replace(host, uploads=uploads)
            finally:  # before what follows a run that failed, which takes its time
                end_watch()


def make_options(values: Mapping[str, Any], backend: Backend) -> Options:
    """How a run computes, from the values of a call's arguments or of a command's options.

    Its precision is that of `choose_run_precision`. Raises HermesError, and Unsupported for a
    device that the machine lacks.
    """
    choose_device(backend, values["device"])  # before anything is read for it
    return Options(
        device=values["device"],
        precision=choose_run_precision(values, backend),
        compile=values["compile"],
        grad_checkpoint=values["grad_checkpoint"],
        selective_checkpoint=values["selective_checkpoint"],
        deterministic=values["deterministic"],
        shard=values["shard"],
        shard_group=values["shard_group"],
    )


def _choose_tell(
    progress: bool | None, process_group: ProcessGroup, *, quiet: bool = False
) -> Callable[[str], None]:
    """What shows a line to the user: standard error, where progress is shown, of rank 0.

    quiet: warnings alone.
    """
    from hermes.training.progress_bar import can_draw_bar

    if quiet and not process_group.rank_info.rank:
        return tell_warning
    if process_group.rank_info.rank or not (can_draw_bar() if progress is None else progress):
        return _tell_nothing
    return lambda line: print(line, file=sys.stderr, flush=True)
