"""What a call that trains is refused for before a backend is loaded and other ranks are joined.

Loading a framework takes seconds, or more where a machine is busy; a wrong value or name is seen at
once. The functions that look are those that look again where the run is made.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hermes.arguments import Call, check_verbosity, convert_arguments
from hermes.chat_templates.template import choose_template, parse_template_args
from hermes.checkpoint import RetentionPolicy, locate
from hermes.data.bad_records import BadRecords
from hermes.data.file_names import expand_paths, refuse_several_prepared, require_present
from hermes.data.mixture import strip_weights
from hermes.data.preference_dataset import PREFERENCE_METRICS
from hermes.data.prepared_folder import is_prepared
from hermes.data.records import choose_record_format
from hermes.data.remote import is_remote
from hermes.data.token_files import is_token_file
from hermes.errors import HermesError
from hermes.finetuning.options import apply_run_settings, check_length, is_resuming, make_lora
from hermes.interop.architecture import read_architecture
from hermes.interop.hub import load_tokenizer, parse_hub_name, require_model_present
from hermes.model_info.devices import require_device_name, require_precision
from hermes.numerics.lora import list_trainable
from hermes.options.synonyms import suggest_option
from hermes.recipe import Recipe, replace_fields
from hermes.spec import ModelSpec
from hermes.tokenizer.files import is_tokenizer_file
from hermes.tracking.registry import find_trackers
from hermes.training.early_stopping import EarlyStopping
from hermes.training.evaluation_checks import (
    HeldOut,
    check_best_metric,
    check_metric_name,
    check_patience,
)
from hermes.training.hub_upload import read_push
from hermes.training.nonfinite import NonFinitePolicy
from hermes.training.options import (
    ROW_OPTIONS,
    choose_samples,
    list_files,
    list_names,
    make_row_options,
    make_text_format,
    read_recipe_fields,
)
from hermes.training.recording import check_log_every
from hermes.training.run import check_output
from hermes.training.save_timer import SaveTimer
from hermes.training.setup import check_seq_len, choose_seq_len, refuse_without_tokenizer
from hermes.training.spikes import SpikePolicy

__all__ = ["check_arguments", "check_training_call", "check_vocab_size", "make_call"]

LARGE = 1_000_000  # bytes of a tokenizer from which on reading it takes more than a moment


def make_call(
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
    call = make_call(function, inspect.signature(function), (), arguments)
    check_training_call(call, edits, is_command=True)


def check_training_call(
    call: Call, edits: Mapping[str, object] | None = None, *, is_command: bool = False
) -> None:
    """Refuse wrong values, and names that stand for nothing on this machine. Raises HermesError.

    edits: recipe fields set by other means than arguments. is_command: of the command line, which
    gives all options, those too that are left at their defaults. Not looked at is what only a
    backend, the Hub, or the checkpoint of a resumed run can tell.
    """
    check_output(Path(call["output"]), resume=call["resume"])
    if not is_command:
        check_vocab_size(call)
    _check_values(call)
    if _is_continued(call):
        _check_best_name(call)
    else:
        _check_evaluations(call, _check_recipe(call, edits or {}))
    _check_names(call)
    if not _is_continued(call):
        _require_tokenizer(call)


def check_vocab_size(call: Call) -> None:
    """Refuse a size of the vocabulary where no tokenizer is trained. Raises HermesError."""
    if call.has_given("vocab_size") and not _has_new_tokenizer(call):
        raise HermesError(
            "--vocab-size is that of a tokenizer to train; give --train-tokenizer with it"
        )


def _check_names(call: Call) -> None:
    """Refuse names of files that are missing or of a kind that cannot be read here."""
    files = list_files(call)
    names = strip_weights(files)
    require_present(names)
    if names == files and _has_text(call):
        refuse_several_prepared([Path(name) for name in names])
    require_present(list_names(call.values.get("val_data", ())))
    if call["checkpoint"]:
        require_model_present(call["checkpoint"])
    if (stable := call.values.get("cooldown_from")) and not Path(stable).exists():
        locate(Path(stable))
    if (template := call.values.get("template")) and not Path(template).exists():
        choose_template(None, file=template, default="")
    given = call["tokenizer"]
    if isinstance(given, str | Path) and not _has_new_tokenizer(call):
        _check_tokenizer(given)
    if not _has_text(call):
        for file in (path for path in map(Path, names) if path.is_file()):
            choose_record_format(file, call["format"])


def _check_tokenizer(given: str | Path) -> None:
    """Refuse what is no tokenizer, without reading a large vocabulary twice, which takes a second.

    Of a large one the names of its files count, or the first byte of a JSON object.
    """
    if parse_hub_name(given) is None and not _is_large_tokenizer(Path(given)):
        load_tokenizer(given)


def _is_large_tokenizer(path: Path) -> bool:
    """Whether these are files of a tokenizer, by all that is seen at once, and large."""
    try:
        files = [path] if path.is_file() else [*filter(Path.is_file, path.iterdir())]
        named = [one for one in files if is_tokenizer_file(one.name)]
        if sum(one.stat().st_size for one in named or files) < LARGE:
            return False
        if named:
            return True
        with path.open("rb") as file:
            return file.read(64).lstrip().startswith(b"{")
    except OSError:  # what reads it says why
        return False


def _has_new_tokenizer(call: Call) -> bool:
    """Whether the tokenizer need not be there yet."""
    return bool(call.values.get("train_tokenizer") or call.values.get("force_retrain_tokenizer"))


def _require_tokenizer(call: Call) -> None:
    """Refuse a new model on text without a tokenizer."""
    if call["tokenizer"] is not None or not _is_new_model(call) or _has_new_tokenizer(call):
        return
    # Prepared tokens, and some tools' files of tokens, have one beside them.
    named = [Path(name) for name in strip_weights(list_files(call))]
    if any(is_remote(path) or is_prepared(path) for path in named):
        return
    if not any(is_token_file(path) for path in expand_paths(named)):
        if call["resume"]:
            raise HermesError(
                f"{call['output']} has no checkpoint to resume, and a new run needs --tokenizer "
                "FILE or --train-tokenizer"
            )
        refuse_without_tokenizer()


def _is_new_model(call: Call) -> bool:
    return "model" in call.values and not call["checkpoint"]


def _is_continued(call: Call) -> bool:
    """Whether the recipe, and what else is not given, is that of a checkpoint."""
    return is_resuming(call) or bool(call.values.get("cooldown_from"))


def _check_values(call: Call) -> None:
    check_verbosity(call["verbose"], call["quiet"])
    if "text_field" in call.values:
        make_text_format(call)
        make_row_options(apply_run_settings(call, *ROW_OPTIONS))
    BadRecords(call["max_bad_records"])  # also where no record is left out
    require_precision(call["precision"])
    require_device_name(call["backend"], call["device"])
    check_log_every(call["log_every"])
    SaveTimer(call["save_minutes"])
    RetentionPolicy(call["keep_last"], call["keep_every"], call["keep_best"])
    EarlyStopping(call["patience"], call["min_delta"])
    NonFinitePolicy.parse(call["on_nonfinite"])
    SpikePolicy.parse(call["on_spike"], call["spike_sigma"], call["spike_window"])
    choose_samples(call)
    parse_template_args(call.values.get("template_arg", ()))
    read_push(call["push_to_hub"], call["push_every_save"])
    find_trackers(list_names(call["track"]))


def _check_recipe(call: Call, edits: Mapping[str, object]) -> Recipe:
    """Refuse the settings of a new run, those of its model too where it is on this machine."""
    spec = None
    if _is_new_model(call):
        fields = {**read_recipe_fields(call), **edits}
        spec = _read_model(call)
    else:
        fields = {**read_recipe_fields(call, defaults=True), **edits}
        fields["lora"] = make_lora(call, ())
        check_length(call, fields)
    if fields.get("seq_len") is None:
        fields["seq_len"] = Recipe.seq_len if spec is None else choose_seq_len(spec)
    recipe = replace_fields(Recipe(), fields)
    if spec is not None:
        check_seq_len(recipe, spec)
        list_trainable(spec, recipe)
    return recipe


def _check_evaluations(call: Call, recipe: Recipe) -> None:
    """Refuse what waits for evaluations of a new run that never come."""
    takes_files = "val_data" in call.values
    is_there = bool(recipe.val_fraction or list_names(call.values.get("val_data", ())))
    unit = "pairs" if _has_pairs(call) else "sequences"
    held_out = HeldOut(is_there, unit, _list_measures(call), takes_files)
    check_patience(call["patience"], held_out, recipe)
    if not _is_of_source(call["keep_best"]):
        check_best_metric(call["keep_best"], held_out, recipe)


def _check_best_name(call: Call) -> None:
    """Refuse a metric that no run of this kind has; whether it keeps an average is not known."""
    if call["keep_best"] is not None and not _is_of_source(call["keep_best"]):
        check_metric_name(call["keep_best"], _list_measures(call), ema=True)


def _is_of_source(metric: str | None) -> bool:
    """Whether a metric has the name of one of several sources, which reading the data tells."""
    return metric is not None and "/" in metric


def _has_text(call: Call) -> bool:
    """Whether the data is text, and not records of conversations or pairs."""
    return "text_field" in call.values


def _has_pairs(call: Call) -> bool:
    return "beta" in call.values


def _list_measures(call: Call) -> tuple[str, ...]:
    return PREFERENCE_METRICS if _has_pairs(call) else ()


def _read_model(call: Call) -> ModelSpec | None:
    """The architecture of a new model; None where it is on the Hub."""
    model = call["model"]
    if isinstance(model, ModelSpec):
        return model
    if parse_hub_name(model) is not None:
        return None
    return read_architecture(model, call["ignore_fields"])
