"""The files of a checkpoint folder, and the companions of the weights.

    config.json  generation_config.json  tokenizer.json  tokenizer_config.json    for other tools
    model.safetensors, or shards and an index                                     the weights
    tokenizer.manifest.json                                how the tokenizer was trained
    model.mal                                                                     the architecture
    optimizer.safetensors  progress.json                                          to resume a run
    manifest.json                                                                 their hashes

The layout is in `specs/checkpoint.md`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hermes.storage.strict_json import Json, render_json

__all__ = ["Companions", "name_step_folder"]

CONFIG = "config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
SPEC = "model.mal"
OPTIMIZER = "optimizer.safetensors"
PROGRESS = "progress.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_MANIFEST = "tokenizer.manifest.json"
TRASH = ".trash-"


@dataclass(frozen=True)
class Companions:
    """The files beside the weights that stay the same for a whole run.

    tokenizer_json: the text of tokenizer.json, None where there is no tokenizer. The others are the
    contents of the files that other tools read, and of how the tokenizer was trained.
    """

    tokenizer_json: str | None = None
    tokenizer_config: Mapping[str, Json] | None = None
    config: Mapping[str, Json] = field(
        default_factory=lambda: {"architectures": ["HermesForCausalLM"], "model_type": "hermes"}
    )
    generation_config: Mapping[str, Json] | None = None
    tokenizer_manifest: Mapping[str, Json] | None = None

    def render(self) -> dict[str, bytes]:
        """Render each file. -> contents by file name"""
        files = {CONFIG: render_json(self.config)}
        if self.generation_config is not None:
            files[GENERATION_CONFIG] = render_json(self.generation_config)
        if self.tokenizer_json is not None:
            files[TOKENIZER] = self.tokenizer_json.encode("utf-8")
        if self.tokenizer_config is not None:
            files[TOKENIZER_CONFIG] = render_json(self.tokenizer_config)
        if self.tokenizer_manifest is not None:
            files[TOKENIZER_MANIFEST] = render_json(self.tokenizer_manifest)
        return files


def name_step_folder(step: int) -> str:
    """Name the folder of a step's checkpoint: step-00000200."""
    return f"step-{step:08d}"
