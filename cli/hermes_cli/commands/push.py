"""`hermes push`: a model to the Hugging Face Hub."""

from pathlib import Path

from hermes_cli.options.declarations import declare_command
from hermes_cli.training.hub_upload import push_model


@declare_command("push")
def push(
    checkpoint: Path,
    repo: str,
    to: str,
    dtype: str | None,
    public: bool,
    config: Path | None,
    ignore_fields: tuple[str, ...],
    force: bool,
) -> None:
    """Push a model to the Hugging Face Hub.

    One commit replaces the content of the repository by what `hermes convert` writes: weights,
    architecture and tokenizer, with LoRA adapters merged and without optimizer state. The
    repository is created if it does not exist. Authentication is by HF_TOKEN or `hf auth login`.
    """
    push_model(
        checkpoint,
        repo,
        to=to,
        dtype=dtype,
        public=public,
        config=config,
        ignore_fields=ignore_fields,
        force=force,
    )
