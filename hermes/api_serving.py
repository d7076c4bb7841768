"""The public function that serves a model."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hermes.api_chat import make_cache_key, open_chat_model
from hermes.arguments import convert_arguments, name_own_arguments
from hermes.errors import HermesError
from hermes.inference.decoding import CONTEXT_OVERFLOWS
from hermes.inference.engine import Engine
from hermes.model_info.devices import choose_device, choose_precision
from hermes.model_info.fitting import check_cache
from hermes.model_info.memory import explain_out_of_memory
from hermes.tokenizer import Tokenizer

if TYPE_CHECKING:
    from hermes.serving.served_model import ServedModel

__all__ = ["open_served_model", "serve"]


def open_served_model(
    checkpoint: str | Path,
    *,
    model_name: str | None = None,
    config: str | Path | None = None,
    ignore_fields: Sequence[str] = (),
    use_ema: bool = False,
    tokenizer: Tokenizer | str | Path | None = None,
    eos: str | None = None,
    template: str | Path | None = None,
    template_arg: Sequence[str] = (),
    rows: int = 16,
    batch_invariant: bool = False,
    max_queue: int = 1024,
    context: int | None = None,
    context_overflow: str = "stop",
    timeout: float = 600,
    prompt_cache: str | Path | None = None,
    backend: str = "auto",
    device: str | None = None,
    precision: str = "auto",
    force: bool = False,
) -> "ServedModel":
    """Load a model for a server of one's own; arguments as of `serve`. Raises HermesError.

    `ServedModel.keep_rows` is to be called at the end of a server with a prompt_cache.
    """
    a = dict(locals())
    try:
        from hermes.serving.kept_rows import load_rows
        from hermes.serving.served_model import Limits, ServedModel
    except ImportError as error:
        raise HermesError(
            f"serving needs its packages ({error}); pip install 'hermes-llm[serve]'"
        ) from error
    if context is not None and context < 1:
        raise HermesError(f"context must be at least 1, got {context}")
    if context_overflow not in CONTEXT_OVERFLOWS:
        raise HermesError(
            f"context_overflow is {context_overflow!r}; it must be one of "
            f"{', '.join(CONTEXT_OVERFLOWS)}"
        )
    if not timeout > 0:
        raise HermesError(f"timeout must be above 0, got {timeout:g}")
    if batch_invariant and prompt_cache is not None:
        raise HermesError(
            "--prompt-cache gives rows what was read in other company, which --batch-invariant "
            "rules out; leave one out"
        )
    base, model, chosen = open_chat_model(checkpoint, a)
    doing, advice = f"serving {base.spec.name}", "fewer --rows or a shorter --context"
    longest = base.spec.max_seq_len
    for note in check_cache(
        chosen,
        base.spec,
        choose_device(chosen, device),
        choose_precision(precision, chosen, device),
        (rows, min(context or longest, longest)),
        force=force,
        advice=f"choose {advice}",
    ):
        warnings.warn(note, stacklevel=2)
    with explain_out_of_memory(doing, advice, chosen, device):
        engine = Engine(
            model,
            tokenizer=base.tokenizer,
            rows=rows,
            capacity=context,
            max_queue=max_queue,
            vocab_size=base.tokenizer.vocab_size,
            batch_invariant=batch_invariant,
        )
    kept = None
    if prompt_cache is not None:
        kept = Path(prompt_cache), make_cache_key(base, precision, chosen, device)
        load_rows(*kept, engine)
    return ServedModel(
        model_name or Path(checkpoint).absolute().name,
        engine,
        base.tokenizer,
        base.encoder,
        base.generation_config,
        context_overflow,
        Limits(seconds=timeout),
        kept=kept,
    )


@name_own_arguments
def serve(
    checkpoint: str | Path,
    *,
    model_name: str | None = None,
    config: str | Path | None = None,
    ignore_fields: Sequence[str] = (),
    use_ema: bool = False,
    tokenizer: Tokenizer | str | Path | None = None,
    eos: str | None = None,
    template: str | Path | None = None,
    template_arg: Sequence[str] = (),
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    allow_host: Sequence[str] = (),
    rows: int = 16,
    batch_invariant: bool = False,
    max_queue: int = 1024,
    context: int | None = None,
    context_overflow: str = "stop",
    timeout: float = 600,
    prompt_cache: str | Path | None = None,
    backend: str = "auto",
    device: str | None = None,
    precision: str = "auto",
    force: bool = False,
    on_start: Callable[[str], object] = lambda address: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Serve a model by the API that OpenAI's clients speak, and on a page to talk to it.

    checkpoint, config to template_arg, force: as in `chat`.
    model_name: by which clients ask for the model, the folder's by default. host, port: where the
    server listens; beyond this machine only with an api_key, which clients must send. allow_host:
    further names by which browsers may call this machine. rows: texts that are written at once;
    batch_invariant: each is computed with the same bits whoever else is served; max_queue: requests
    that may wait for a row; context: tokens that a text may have with its prompt, None for the
    model's max_seq_len; rows times context bound the memory of the KV cache. context_overflow:
    where a text that does not fit ends ('stop') or goes on ('slide'), as of `generate`, and of a
    conversation the oldest turns are left out; a request may have its own. timeout: seconds until a
    text must be done. prompt_cache: a folder in which the end of the
    server keeps what its rows have read, and from which the next one begins. on_start: called with
    the address once the server answers. stop: polled; where it says True, answers under way are
    finished, and the call
    returns. Raises HermesError of every kind.
    """
    a = convert_arguments(serve, locals())
    is_local = a["host"] in ("127.0.0.1", "localhost", "::1")
    if not is_local and not a["api_key"]:
        raise HermesError(
            f"--host {host} lets other machines in; give an --api-key that they must send"
        )
    own = ("model_name", "config", "ignore_fields", "use_ema", "tokenizer", "eos", "template",
           "template_arg", "rows", "batch_invariant", "max_queue", "context", "context_overflow",
           "timeout", "prompt_cache", "backend", "device", "precision", "force")  # fmt: skip
    try:
        from hermes.serving.run_server import OWN_NAMES, bind, run_server
    except ImportError as error:
        raise HermesError(
            f"serving needs its packages ({error}); pip install 'hermes-llm[serve]'"
        ) from error
    with bind(a["host"], a["port"]) as listening:
        model = open_served_model(checkpoint, **{key: a[key] for key in own})
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listening.getsockname()[1]}"
        names = (*OWN_NAMES, *a["allow_host"]) if is_local else ("*",)
        run_server(
            model,
            listening,
            api_key=a["api_key"],
            hosts=names,
            stop=stop,
            on_start=lambda: on_start(address),
        )
        model.keep_rows()
