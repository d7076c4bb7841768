"""Load a model from wherever it lies: its weights built on a backend, its tokenizer beside them."""

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from hermes.arguments import convert_arguments, name_own_arguments
from hermes.errors import CheckpointError
from hermes.inference.prompt_cache import CacheKey, hash_weights
from hermes.interface import SHORT_NAMES, Backend, Options, choose_backend
from hermes.interop.companions import check_rows, open_tokenizer, read_generation_config
from hermes.interop.hub import load_tokenizer, require_model_present
from hermes.interop.open_model import StoredModel, open_model
from hermes.model import Model
from hermes.model_info.devices import (
    choose_device,
    choose_precision,
    report_model,
    require_device_name,
    require_precision,
)
from hermes.model_info.fitting import count_loaded_bytes, find_free_memory, require_memory
from hermes.model_info.memory import explain_out_of_memory
from hermes.spec import ModelSpec
from hermes.stage_display import show_progress
from hermes.stages import report_stage
from hermes.tokenizer import Tokenizer
from hermes.tokenizer.files import has_tokenizer

__all__ = ["SMALLER", "check_loading", "load"]

# What to choose where a model does not fit.
SMALLER = "--precision bfloat16, another --device, or a smaller model"


@name_own_arguments
def load(
    checkpoint: str | Path,
    backend: str = "auto",
    device: str | None = None,
    precision: str = "auto",
    *,
    config: str | Path | None = None,
    ignore_fields: Sequence[str] = (),
    tokenizer: str | Path | Tokenizer | None = None,
    eos: str | None = None,
    bos: bool | None = None,
    force: bool = False,
    use_ema: bool = False,
) -> Model:
    """Load a model to evaluate and to generate with.

    checkpoint: a checkpoint, a run (its newest whole one), a Hugging Face folder, or a file of
    weights with `config` telling the architecture. precision: "auto" is bfloat16 on GPUs that have
    it, else float32. ignore_fields: fields of its config.json that
    hermes does not know and that are to be passed over. tokenizer: another than the one beside it.
    eos: the token that ends a text, and bos: whether one begins with BOS, where the checkpoint's
    files are not to say it. force: try what memory seems too small for. use_ema: the average of the
    weights that a run with --ema keeps. In a terminal, what takes long says so. Raises
    CheckpointError, HermesError where it does not fit, MissingBackend, Unsupported.
    """
    convert_arguments(load, locals())
    with show_progress(None):
        require_model_present(checkpoint)
        require_precision(precision)
        require_device_name(backend, device)
        if isinstance(tokenizer, str | Path):
            tokenizer = load_tokenizer(tokenizer)
        found = choose_backend(backend)
        device_name = choose_device(found, device)
        full = choose_precision(precision, found, device)
        report_stage(f"reading {checkpoint}")
        source = open_model(
            Path(checkpoint),
            config=Path(config) if config else None,
            ignore_fields=ignore_fields,
            use_ema=use_ema,
        )
        notes = (*source.notes, *check_loading(found, source.spec, device_name, full, force))
        for note in notes:
            warnings.warn(note, stacklevel=3)
        report_stage(f"building {source.spec.name}")
        options, name = Options(device=device, precision=full), source.spec.name
        with explain_out_of_memory(f"building {name}", SMALLER, found, device):
            built = found.build(source.spec, source.params, options)
        report_stage("")
        chosen = _choose_tokenizer(source, tokenizer, eos, bos)
        model = Model(
            built,
            chosen,
            generation_config=read_generation_config(source.files, source.path),
            path=source.path,
            backend=found.name,
            device=device_name,
            make_cache_key=cache(
                lambda: CacheKey(
                    hash_weights(source.spec, source.params), SHORT_NAMES.get(full, full)
                )
            ),
        )
        report_model(found, source.spec, device_name, full)  # now that nothing refuses it
        return model


def check_loading(
    backend: Backend, spec: ModelSpec, device: str, precision: str, force: bool
) -> list[str]:
    """Compare a model's weights with what its device has. -> sentences for the user

    Raises OutOfMemory where they do not fit, unless it is forced.
    """
    needed = count_loaded_bytes(spec, SHORT_NAMES.get(precision, precision))
    return require_memory(spec.name, needed, find_free_memory(backend, device), force=force)


def _choose_tokenizer(
    source: StoredModel, given: Tokenizer | None, eos: str | None, bos: bool | None
) -> Callable[[], Tokenizer] | None:
    """Choose the tokenizer beside a model, or the one given, which must be the same."""

    @cache
    def read() -> Tokenizer | None:
        return open_tokenizer(source.files, source.ids, source.path)

    def finish(found: Tokenizer | None) -> Tokenizer:
        assert found is not None, "there are files of a tokenizer"
        return found if eos is None and bos is None else found.replace_roles(eos=eos, bos=bos)

    has_own = has_tokenizer(source.files)
    if given is None:
        return cache(lambda: finish(read())) if has_own else None
    own = read() if has_own else None
    if own is not None and given.fingerprint != own.fingerprint:
        raise CheckpointError(
            f"the tokenizer given has {given.vocab_size} tokens and is not the one of "
            f"{source.path}, which has {own.vocab_size}; leave it out to use that one"
        )
    check_rows(given, source.spec.vocab_size)
    # The same vocabulary: the model's files say which of its tokens begin and end a text.
    return lambda: finish(given if own is None else given.take_roles(own))
