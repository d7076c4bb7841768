"""What the public functions that train share: how they are called, and a run from start to end."""

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from signal import SIGINT
from typing import Concatenate, ParamSpec, TypeVar

from hermes.api_checks import check_training_call
from hermes.arguments import (
    Call,
    convert_arguments,
    list_argument_names,
    name_arguments,
)
from hermes.distributed.agreement import all_or_none
from hermes.distributed.join import find_rank_info
from hermes.errors import HermesError, Interrupted
from hermes.options.synonyms import suggest_option
from hermes.stages import show_stages
from hermes.storage.log_file import LogFile
from hermes.tasks.rounds import choose_rounds
from hermes.training.events import Event
from hermes.training.exhaustion import explain_training_memory
from hermes.training.host import RunHost
from hermes.training.interrupts import DeferredInterrupt
from hermes.training.progress_bar import describe_event, open_progress
from hermes.training.request import RunRequest
from hermes.training.result import ResultCollector, TrainResult
from hermes.training.run import Run, open_run
from hermes.training.tracking import deliver, open_trackers

__all__ = ["bind_call", "check_arguments", "ignore_event", "return_false", "run_to_end"]

P = ParamSpec("P")
R = TypeVar("R")


def ignore_event(event: Event) -> None:
    """Do nothing: the default of `report`."""


def return_false() -> bool:
    """Return False: the default of `stop`."""
    return False


def bind_call(function: Callable[Concatenate[Call, P], R]) -> Callable[P, R]:
    """Hand a public function its arguments as a Call, checked, converted, and which were given.

    The public signature has all parameters but that first one.
    """
    signature = inspect.signature(function)
    public = signature.replace(parameters=list(signature.parameters.values())[1:])
    names = list_argument_names(public)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = _make_call(function, public, args, kwargs)
        try:
            if bound["host"] is None and find_rank_info(os.environ, bound["peer_timeout"]) is None:
                check_training_call(bound)
            return function(bound, *args, **kwargs)
        except HermesError as error:
            if bound["host"] is None:
                error.args = (name_arguments(str(error), names), *error.args[1:])
            raise

    call.__signature__ = public  # type: ignore[attr-defined]  # read by inspect and help()
    return call


def _make_call(
    function: Callable[..., object],
    public: inspect.Signature,
    args: Sequence[object],
    kwargs: Mapping[str, object],
) -> Call:
    """The arguments, converted. Raises TypeError for those that do not fit, and HermesError."""
    try:
        bound = public.bind(*args, **kwargs)
    except TypeError as error:
        unknown = next((name for name in kwargs if name not in public.parameters), "")
        hint = suggest_option(unknown, public.parameters) if unknown else ""
        raise TypeError(f"{function.__name__}() {error}{hint}") from None
    given = frozenset(bound.arguments)
    bound.apply_defaults()
    return Call(convert_arguments(function, bound.arguments), given)


def check_arguments(
    function: Callable[..., object],
    arguments: Mapping[str, object],
    edits: Mapping[str, object],
) -> None:
    """Refuse arguments of a function of `bind_call` as it would itself, without a backend.

    edits: recipe fields set by other means. Raises HermesError.
    """
    call = _make_call(function, inspect.signature(function), (), arguments)
    check_training_call(call, edits, is_command=True)


def run_to_end(
    request: RunRequest,
    call: Call,
    host: RunHost,
    on_start: Callable[[], object] = lambda: None,
) -> TrainResult:
    """Train what is requested to its end, or until it is asked to stop.

    on_start: called in rank 0 once nothing can refuse the run. Raises KeyboardInterrupt after
    Ctrl-C, once the run is saved.
    """
    report, uploads = call["report"], host.uploads
    tasks = all_or_none(host.process_group, lambda: choose_rounds(call))
    request = replace(request, tasks=tasks)

    def show_prepared(run: Run) -> None:
        for note in run.notes if host.leads else ():
            host.tell(note)
        host.on_prepared(run)

    with open_run(request, show_prepared) as run, DeferredInterrupt() as interrupt:
        if host.leads and not (run.finished or request.dry_run):
            on_start()
        host.on_open(run)
        if request.dry_run:
            result = ResultCollector(run).result
            run.discard()
            return result

        def stop() -> bool:
            return interrupt.came or host.stop() or call["stop"]()

        collector = ResultCollector(run)
        shows = host.leads and not run.finished and not call["quiet"]
        progress, verbose = call["progress"] if shows else False, call["verbose"]
        log_file = Path(call["log_file"]) if host.leads and call["log_file"] else None
        with (
            LogFile(log_file) as log,
            closing(
                open_progress(run.total_steps, run.position.step, progress, verbose=verbose)
            ) as shown,
            show_stages(shown.show_stage),
            open_trackers(run, host.tell) as trackers,
            explain_training_memory(request, run.components.recipe, run.components.spec.name),
        ):
            log.say(
                f"run {request.output}: from step {run.position.step:,} to {run.total_steps:,}, "
                f"{run.components.spec.name}, {request.backend.name} on {request.device}"
            )
            for note in run.notes:
                log.say(note)
            for event in run.train(stop):
                collector.add(event)
                shown.show(event)
                log.say(describe_event(event))
                deliver(trackers, event)
                report(event)
                if uploads is not None and host.leads:
                    uploads.push_saved(event)
        result = collector.result
    if interrupt.came and not result.finished:
        stopped = (
            f"stopped at step {result.steps:,} of {run.total_steps:,} and saved in "
            f"{result.checkpoint}; resume=True continues the run"
        )
        raise (KeyboardInterrupt if interrupt.number == SIGINT else Interrupted)(stopped)
    if uploads is not None and host.leads:
        uploads.last = result.checkpoint
    return result
