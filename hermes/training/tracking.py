"""Opens a run's trackers, and tells them what it does."""

from collections.abc import Callable
from pathlib import Path

from hermes.numerics.params import count_parameters
from hermes.recipe import flatten_recipe
from hermes.tracking.delivery import TrackerDelivery
from hermes.tracking.tracker import TrackedRun, name_curves
from hermes.training.events import (
    Evaluation,
    Event,
    Overflow,
    RolledBack,
    Sample,
    Skipped,
    Spike,
    Stopped,
    TaskScores,
    Update,
    make_record,
)
from hermes.training.metrics_file import read_metrics
from hermes.training.run import Run
from hermes.training.samples import read_samples

__all__ = ["deliver", "find_logged_steps", "open_trackers"]

KINDS = ("train", "val", "task", "text")


def open_trackers(run: Run, tell: Callable[[str], None]) -> TrackerDelivery:
    """The trackers of a run's request, for a `with` block around its training.

    To be called before the training, which cuts what an earlier session logged after its last
    checkpoint. tell: given lines for the user.
    """
    request = run.request
    if run.finished or not request.trackers:
        return TrackerDelivery({}, TrackedRun(run.id, "", "", request.output), {}, tell)
    described = TrackedRun(
        run.id,
        request.output.absolute().name,
        request.track_project,
        request.output,
        run.position.step,
        _collect_settings(run),
    )
    logged = find_logged_steps(request.output) if run.position.step else {}
    return TrackerDelivery(request.trackers, described, logged, tell)


def deliver(trackers: TrackerDelivery, event: Event) -> None:
    """Tell a run's trackers what happened."""
    match event:
        case Update() | Evaluation() | TaskScores() | Skipped() | Overflow() | Spike():
            trackers.log(make_record(event))
        case Sample(step, number, prompt, text):
            trackers.log_text(step, f"sample/{number}", prompt + text)
        case RolledBack():
            trackers.mark_rolled_back()
        case Stopped():
            trackers.mark_stopped()


def _collect_settings(run: Run) -> dict[str, object]:
    """What a table of runs compares: the options, the recipe, the model and the machine."""
    request, parts = run.request, run.components
    return {
        **{name: value for name, value in request.settings.items() if value is not None},
        **flatten_recipe(parts.recipe),
        "model": parts.spec.name,
        "parameters": count_parameters(parts.spec),
        "total_steps": run.total_steps,
        "backend": request.backend.name,
        "device": request.device,
        "precision": request.options.precision,
        "world_size": request.world_size,
    }


def find_logged_steps(output: Path) -> dict[str, int]:
    """The last step of each kind ('train', 'val', ...) that a run's trackers were told of.

    Of steps that a rollback took back, trackers have been told, too.
    """
    if not (output / "metrics.jsonl").is_file():
        return {}
    found = {"text": max((sample["step"] for sample in read_samples(output)), default=0)}
    taken_back = 0
    for line in read_metrics(output, skip_odd=True):
        if "rolled_back_from" in line:
            taken_back = max(taken_back, int(line["rolled_back_from"]) - 1)
            continue
        for kind in {name.split("/")[0] for name in name_curves(line)}:
            found[kind] = max(int(line["step"]), found.get(kind, 0))
    return {kind: max(found.get(kind, 0), taken_back) for kind in KINDS}
