"""The library's functions take what the commands' options take, with the same defaults."""

import inspect

import pytest

import hermes
from hermes.api_tokenizer import TOKENIZER_ARGUMENTS
from hermes.errors import DataError, HermesError
from hermes.options import get_options
from tests.finetuning.support import small_checkpoint

COMMANDS = {
    "train": "train",
    "finetune": "finetune",
    "sft": "sft",
    "dpo": "dpo",
    "evaluate": "eval",
    "convert": "convert",
    "generate": "generate",
    "chat": "chat",
    "merge": "merge",
    "prepare": "prepare",
    "check_data": "data check",
    "plan": "plan",
    "plot": "plot",
    "watch": "watch",
    "make_recipe": "recipe",
}
# Options without a meaning in Python: starting processes, options from files, edits as text, JSON.
OF_THE_COMMAND = {"num_gpus", "num_processes", "max_restarts", "config", "set", "json",
                  "print_config", "no_png"}  # fmt: skip
# Arguments without a form on the command line: objects, callbacks, and what --set reaches there.
OF_THE_LIBRARY = {
    *("src", "dst"),  # the command's arguments, which are no options
    *("progress", "on_progress", "report", "stop", "host", "on_start"),
    "runs",
}
# Of train-tokenizer: the files that it writes.
OF_FILES = {"output", "split", "force_retrain_tokenizer"}


@pytest.fixture(params=COMMANDS)
def pair(request):
    """A function's parameters and its command's options, by name."""
    function = getattr(hermes, request.param)
    return inspect.signature(function).parameters, get_options(COMMANDS[request.param])


def test_every_option_is_an_argument_and_every_argument_an_option(pair):
    parameters, options = pair
    assert set(options) - set(parameters) <= OF_THE_COMMAND
    assert set(parameters) - set(options) <= OF_THE_LIBRARY


def test_defaults_are_the_options(pair):
    parameters, options = pair
    for name in set(parameters) & set(options):
        found = parameters[name].default
        if found is inspect.Parameter.empty:
            assert options[name].default is None, name  # the command asks for it, too
        elif options[name].multiple:
            assert not found, name
            assert not options[name].default, name
        else:
            assert (found, type(found)) == (options[name].default, type(options[name].default)), (
                name
            )


def test_every_argument_is_typed(pair):
    parameters, _ = pair
    for name, parameter in parameters.items():
        assert parameter.annotation is not inspect.Parameter.empty, name


def test_options_that_python_names_otherwise_are_known_to_its_errors():
    parameters = set(inspect.signature(hermes.train_tokenizer).parameters)
    options = set(get_options("train-tokenizer")) - OF_THE_COMMAND
    renamed = {name for name in options - parameters if name in TOKENIZER_ARGUMENTS}
    assert renamed == set(TOKENIZER_ARGUMENTS) <= options
    assert set(TOKENIZER_ARGUMENTS.values()) <= parameters
    assert options - parameters - renamed <= OF_FILES


def test_an_error_of_training_a_tokenizer_names_its_own_arguments(tmp_path):
    (tmp_path / "a.csv").write_text("text\na\n")
    with pytest.raises(DataError, match=r"; file_format says jsonl"):
        hermes.train_tokenizer(tmp_path / "a.csv", file_format="jsonl")


def test_errors_of_every_function_name_its_arguments():
    """Each function of `hermes` speaks of its own arguments, where those below speak of options."""
    functions = [getattr(hermes, name) for name in hermes.__all__]
    functions = [one for one in functions if inspect.isfunction(one) and one.__name__ != "backend"]
    assert len(functions) > 20
    assert [one.__name__ for one in functions if not hasattr(one, "__wrapped__")] == []


def test_a_name_of_another_tool_and_a_wrong_type_are_answered(tmp_path):
    with pytest.raises(TypeError, match=r"'learning_rate'; hermes calls it 'lr'$"):
        hermes.train("nano", learning_rate=1e-3)
    with pytest.raises(HermesError, match=r"^checkpoint must be a string or a path, got None$"):
        hermes.load(None)
    with pytest.raises(HermesError, match=r"^source must be a string or a path, got 3$"):
        hermes.load_spec(3)
    with pytest.raises(HermesError, match=r"; give them with adapter=DIR$"):
        hermes.merge(small_checkpoint(tmp_path), output=tmp_path / "o")


def test_a_model_at_an_address_or_of_the_hub_is_named_as_it_was_typed():
    with pytest.raises(HermesError, match=r"^https://huggingface.co/gpt2 is an address,"):
        hermes.load("https://huggingface.co/gpt2")
    with pytest.raises(HermesError, match=r"give hf://openai-community/gpt2 for a model on"):
        hermes.load("openai-community/gpt2")
