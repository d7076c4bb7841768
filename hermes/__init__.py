"""hermes: train language models on PyTorch or MLX from one architecture file.

    spec = hermes.load_spec("nano")
    tokenizer = hermes.train_tokenizer(["book.txt"], vocab_size=2000)
    hermes.train(spec, data=["book.txt"], tokenizer=tokenizer, output="run", max_steps=100)
    print(hermes.load("run").generate("Once", max_tokens=50))

Names are imported when they are first used, so that `import hermes` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hermes.api import train
    from hermes.api_chat import chat
    from hermes.api_data import (
        PrepareResult,
        ShownDocument,
        check_data,
        prepare,
        show_document,
        verify_data,
    )
    from hermes.api_evaluation import EvalResult, evaluate
    from hermes.api_finetuning import finetune, sft
    from hermes.api_generation import generate
    from hermes.api_models import ConvertResult, convert, merge
    from hermes.api_opening import backend, load_spec
    from hermes.api_planning import make_recipe, plan
    from hermes.api_preferences import dpo
    from hermes.api_serving import serve
    from hermes.api_tokenizer import train_tokenizer
    from hermes.api_tracing import ShownSample, show_step, trace_document, trace_step
    from hermes.api_watching import plot, watch
    from hermes.errors import HermesError
    from hermes.inference.sampling import Sampling
    from hermes.model import GeneratedText, Model
    from hermes.model_loading import load
    from hermes.recipe import LossScaling, OptimizerRecipe, Recipe
    from hermes.spec import ModelSpec
    from hermes.tokenizer import Tokenizer
    from hermes.training.result import Result, TrainResult

__all__ = [
    "ConvertResult",
    "EvalResult",
    "GeneratedText",
    "HermesError",
    "LossScaling",
    "Model",
    "ModelSpec",
    "OptimizerRecipe",
    "PrepareResult",
    "Recipe",
    "Result",
    "Sampling",
    "ShownDocument",
    "ShownSample",
    "Tokenizer",
    "TrainResult",
    "__version__",
    "backend",
    "chat",
    "check_data",
    "convert",
    "dpo",
    "evaluate",
    "finetune",
    "generate",
    "load",
    "load_spec",
    "make_recipe",
    "merge",
    "plan",
    "plot",
    "prepare",
    "serve",
    "sft",
    "show_document",
    "show_step",
    "trace_document",
    "trace_step",
    "train",
    "train_tokenizer",
    "verify_data",
    "watch",
]

_HOMES = {
    "errors": ("HermesError",),
    "api": ("train",),
    "api_opening": ("backend", "load_spec"),
    "api_tokenizer": ("train_tokenizer",),
    "api_data": (
        "PrepareResult",
        "ShownDocument",
        "check_data",
        "prepare",
        "show_document",
        "verify_data",
    ),
    "api_serving": ("serve",),
    "api_planning": ("make_recipe", "plan"),
    "api_watching": ("plot", "watch"),
    "api_tracing": ("ShownSample", "show_step", "trace_document", "trace_step"),
    "api_evaluation": ("EvalResult", "evaluate"),
    "api_finetuning": ("finetune", "sft"),
    "api_preferences": ("dpo",),
    "api_chat": ("chat",),
    "api_generation": ("generate",),
    "api_models": ("ConvertResult", "convert", "merge"),
    "model": ("GeneratedText", "Model"),
    "model_loading": ("load",),
    "recipe": ("LossScaling", "OptimizerRecipe", "Recipe"),
    "inference.sampling": ("Sampling",),
    "spec": ("ModelSpec",),
    "tokenizer": ("Tokenizer",),
    "training.result": ("Result", "TrainResult"),
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("hermes-llm")
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"hermes.{module}"), name)
    raise AttributeError(f"module 'hermes' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
