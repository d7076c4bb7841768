"""The table of families, and which of them computes the same function as a specification.

A family is a row: `Family` in `family`. The rows are in `llama_like`, `gemma_like`, `gpt_like`,
`other_rows`, `parallel_rows` and `relu2_rows`; a new one needs its fields, its names of tensors if
they are its own, and a published configuration in the tests.
"""

from hermes.interop.huggingface.family import make_view
from hermes.interop.huggingface.gemma_like import GEMMA_LIKE
from hermes.interop.huggingface.gpt_like import GPT_LIKE
from hermes.interop.huggingface.llama_like import LLAMA_LIKE
from hermes.interop.huggingface.other_rows import OTHER_ROWS
from hermes.interop.huggingface.parallel_rows import PARALLEL_ROWS
from hermes.interop.huggingface.relu2_rows import RELU2_ROWS
from hermes.spec import ModelSpec

__all__ = ["ARCHITECTURES", "FAMILIES", "HERMES", "find_family"]

HERMES = "hermes"

# By model_type, in the order of preference where several compute the same.
FAMILIES = {
    family.model_type: family
    for family in (
        *(*LLAMA_LIKE, *GEMMA_LIKE, *OTHER_ROWS, *GPT_LIKE, *PARALLEL_ROWS, *RELU2_ROWS),
    )
}
# model_type -> class, as in config.json. No release of transformers has the class of `hermes`.
ARCHITECTURES = {name: family.architecture for name, family in FAMILIES.items()} | {
    HERMES: "HermesForCausalLM"
}


def find_family(spec: ModelSpec, *, renamed: bool = False) -> str:
    """Find the `model_type` of a class that computes what the spec does, or 'hermes'.

    The class that the spec is named by, if it fits: a model read from a class goes back to it. Else
    the first that fits. renamed: whether to consider classes whose tensors are not ours (gpt2,
    phi3).
    """
    view = make_view(spec)
    if view is None:
        return HERMES
    own = FAMILIES.get(spec.name)
    order = [own, *FAMILIES.values()] if own else list(FAMILIES.values())
    for family in order:
        if (
            family.writable
            and (renamed or not family.is_renamed(spec))
            and family.can_express(view)
        ):
            return family.model_type
    return HERMES
