"""One way down: every package and module has its floor, and imports never run back up."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.packages import PACKAGES, ROOT

# The rooms of each package, lower floors first. A room imports itself and lower floors, no other.
FLOORS = {
    "hermes": [
        {
            "decoders",
            "errors",
            "formatting",
            "host_allocator",
            "process_limits",
            "process_memory",
            "rust_panics",
            "stages",
        }
        | {"work_counts"},
        {"stage_display", "storage"},
        {"arguments", "figures"},
        {"optimizer_recipe", "size_schedule"},
        {"spec", "recipe", "distributed"},
        {"backend_options", "batch", "train_state"},
        {"mal", "interface", "options"},
        {"numerics"},
        {"call_display", "checkpoint", "tokenizer", "model_info", "evaluation", "tracking"},
        {"chat_templates"},
        {"data", "inference", "interop"},
        {"model", "training"},
        {"finetuning", "model_loading", "serving", "tasks", "watching"},
        {"api_checks"},
        {"api"},
        {
            "api_data",
            "api_evaluation",
            "api_finetuning",
            "api_chat",
            "api_generation",
            "api_models",
            "api_opening",
            "api_planning",
            "api_preferences",
            "api_tokenizer",
            "api_tracing",
        },
        {"api_serving", "api_watching"},
        {"__main__"},
    ],
    "hermes_numpy": [
        {"cache", "gradient_noise", "loss_scale", "module", "optim", "positions"},
        {"context", "moment_format", "update_rules"},
        {"ops"},
        {"loss", "model"},
        {"lora"},
        {"inference"},
        {"backend"},
    ],
    "hermes_torch": [
        {"cache", "compiler", "global_state", "loss", "loss_scale", "optim", "rendezvous"}
        | {"block_attention", "step_graphs", "token_choice", "work_counts"}
        | {"head_products", "host_copies", "onednn_products", "rotation", "side_group"}
        | {"logits_gradient", "pair_groups"},
        {"fused_attention", "joined_weights", "update_rules"},
        {"chunked_loss", "process_group", "recomputation"},
        {"context"},
        {"moment_format", "ops"},
        {"model"},
        {"lora", "sharding", "weight_layout"},
        {"runtime"},
        {"row_decoder", "objective", "compiled_evaluation", "micro_batches"},
        {"invariant_rows", "static_rows"},
        {"static_decoder"},
        {"inference", "optimizer"},
        {"learner"},
        {"backend"},
    ],
    "hermes_mlx": [
        {"blas", "cache", "device_memory", "erf", "loss", "loss_scale", "optim"}
        | {"pass_memory", "process_group", "products", "rotation", "token_choice", "update_rules"}
        | {"kernel_folder", "logits_gradient", "pair_groups", "recomputation"},
        {"chunked_loss", "context", "elementary", "joined_weights"},
        {"moment_format", "ops"},
        {"model"},
        {"lora"},
        {"runtime"},
        {"row_decoder", "compiler"},
        {"invariant_rows", "compiled_evaluation"},
        {"inference", "optimizer"},
        {"learner"},
        {"work_counts"},
        {"backend"},
    ],
    "hermes_conformance": [
        {"cases"},
        {"measure"},
        {"oracle"},
        {"golden"},
        {"laws"},
        {"suite"},
        {"faults", "certificate", "mutants"},
        {"bisect", "test_conformance"},
    ],
    "hermes_cli": [
        {"display"},
        {"options"},
        {"launch"},
        {"training"},
        {"commands"},
        {"main"},
        {"entry"},
    ],
}
ROOMS = [
    (package, room) for package, floors in FLOORS.items() for room in sorted(set().union(*floors))
]


def room_of(package, path):
    """The first part of a file's path inside its package, without its ending."""
    return path.relative_to(PACKAGES[package]).parts[0].removesuffix(".py")


@cache
def modules(package):
    """Every module of a package by its dotted name; a folder by its __init__."""
    found = {}
    for path in sorted(PACKAGES[package].rglob("*.py")):
        parts = path.relative_to(PACKAGES[package].parent).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


@cache
def imported(package, path):
    """The modules of its own package that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(
                inner
                if (inner := f"{node.module}.{alias.name}") in modules(package)
                else node.module
                for alias in node.names
            )
    return {name for name in names if name in modules(package)} - {package}


@pytest.mark.parametrize("package", FLOORS)
def test_every_room_has_one_floor_and_every_floor_its_rooms(package):
    named = [room for floor in FLOORS[package] for room in floor]
    there = {room_of(package, path) for path in modules(package).values()} - {"__init__"}
    assert len(named) == len(set(named))
    assert set(named) == there


@pytest.mark.parametrize(("package", "room"), ROOMS, ids=[".".join(one) for one in ROOMS])
def test_a_room_stands_on_lower_floors_only(package, room):
    floor = {name: number for number, names in enumerate(FLOORS[package]) for name in names}
    for path in modules(package).values():
        if room_of(package, path) != room:
            continue
        for name in imported(package, path):
            other = name.split(".")[1]
            below = other == room or floor[other] < floor[room]
            assert below, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("package", FLOORS)
def test_no_modules_import_each_other_in_a_circle(package):
    graph = {name: imported(package, path) - {name} for name, path in modules(package).items()}
    # A package's __init__ gathers what its modules offer; those never import it back.
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))
