"""`hermes push`: a model to the Hugging Face Hub."""

from pathlib import Path

from hermes_cli.options.declarations import declare_command
from hermes_cli.training.hub_upload import pushed


@declare_command("push")
def push(
    checkpoint: Path, repo: str, to: str, dtype: str | None, public: bool, config: Path | None
) -> None:
    """Put the model at CHECKPOINT on the Hub, in one commit, as what OWNER/REPO holds.

    It is what `hermes convert` makes of it: weights, architecture and tokenizer, adapters merged
    in, no optimizer state. A repository that is not there is made. The token is HF_TOKEN or that of
    `hf auth login`.
    """
    pushed(checkpoint, repo, to=to, dtype=dtype, public=public, config=config)
