"""How large a checkpoint of a model will be, before it is written."""

from hermes.numerics.lora import list_adapter_tensors
from hermes.numerics.params import list_parameters
from hermes.numerics.update_rules import count_state_elements, list_state_shapes
from hermes.recipe import Recipe
from hermes.spec import ModelSpec

__all__ = ["count_checkpoint_bytes"]

ENTRY = 200  # bytes of a tensor's entry in a header, more or less


def count_checkpoint_bytes(spec: ModelSpec, recipe: Recipe, precision: str = "float32") -> int:
    """Count the bytes of a checkpoint's tensors: weights, adapters, and the optimizer's state.

    They are float32, and float64 where the precision is. Tokenizer and text files are left out.
    """
    table = list_parameters(spec)
    if recipe.lora:
        table = {**table, **list_adapter_tensors(spec, recipe.lora)}
    size = 8 if precision == "float64" else 4
    kept = sum(map(len, list_state_shapes(spec, recipe).values()))
    elements = sum(tensor.size for tensor in table.values()) + count_state_elements(spec, recipe)
    return size * elements + ENTRY * (len(table) + kept)
