"""The house keeps its floors: who may import whom, what is banned, and what help costs."""

import ast
import subprocess
import sys

import pytest

from tests.packages import PACKAGES, ROOT

CRC_CHECKED = PACKAGES["hermes"] / "interop" / "torch_checkpoint.py"
FRAMEWORKS = {"torch", "mlx", "tokenizers"}
FILES = [(name, path) for name, folder in PACKAGES.items() for path in sorted(folder.rglob("*.py"))]
IDS = [f"{name}/{path.relative_to(PACKAGES[name])}" for name, path in FILES]


def imports(path, *, anywhere=False):
    """Dotted names that a file imports; only those run at import time unless `anywhere`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = set()
    if not anywhere:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                late.update(id(child) for child in ast.walk(node))
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                late.update(id(child) for child in ast.walk(node))
    found = []
    for node in ast.walk(tree):
        if id(node) in late:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


@pytest.mark.parametrize(("package", "path"), FILES, ids=IDS)
def test_a_file_imports_only_what_its_floor_allows(package, path):
    roots = {name.split(".")[0] for name in imports(path, anywhere=True)}
    allowed = {
        "hermes": {"hermes", "hermes_specs"},
        "hermes_specs": set(),
        "hermes_conformance": set(PACKAGES) - {"hermes_cli"},
        "hermes_cli": set(PACKAGES),
    }.get(package, {"hermes", package})
    assert not (roots & set(PACKAGES)) - allowed


@pytest.mark.parametrize(("package", "path"), FILES, ids=IDS)
def test_only_the_backend_of_that_name_imports_a_framework(package, path):
    roots = {name.split(".")[0] for name in imports(path)}
    allowed = {"hermes_torch": {"torch"}, "hermes_mlx": {"mlx"}}.get(package, set())
    assert not (roots & {"torch", "mlx"}) - allowed


@pytest.mark.parametrize(("package", "path"), FILES, ids=IDS)
def test_no_file_runs_code_that_it_reads(package, path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    banned = {"eval", "exec", "compile", "__import__"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in banned, f"line {node.lineno}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("yaml.load", "torch.load"):
            safe = any(
                k.arg == "weights_only" and getattr(k.value, "value", None) is True
                for k in node.keywords
            )
            assert safe, f"line {node.lineno}"
    roots = {name.split(".")[0] for name in imports(path, anywhere=True)}
    # Only sums an archive's entries there: nothing is extracted, and nothing unpickled.
    allowed = {"zipfile"} if path == CRC_CHECKED else set()
    assert not roots & {"pickle", "marshal", "shelve", "zipfile", "tarfile"} - allowed


@pytest.mark.parametrize(("package", "path"), FILES, ids=IDS)
def test_the_reason_of_a_system_error_is_worded_in_one_place(package, path):
    """A capital within a sentence, as of No such file or directory, is lowered by hermes.errors."""
    if path == PACKAGES["hermes"] / "errors.py":
        return
    text = path.read_text(encoding="utf-8")
    assert "strerror" not in text, "call explain_os_error or describe_error of hermes.errors"


@pytest.mark.parametrize(("package", "path"), FILES, ids=IDS)
def test_what_a_module_exports_exists(package, path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    exported = []
    for node in tree.body:
        match node:
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names.update(alias.asname or alias.name for alias in aliases)
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                exported = ast.literal_eval(value)
            case ast.Assign(targets=targets):
                names.update(n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    if "__getattr__" not in names:  # a lazy package is tried for real below
        assert set(exported) <= names


def _name_module(package, path):
    parts = path.relative_to(PACKAGES[package]).with_suffix("").parts
    return ".".join((package, *parts)).removesuffix(".__init__")


def test_a_module_that_lists_its_exports_lists_what_others_import():
    imported = {name for _, path in FILES for name in imports(path, anywhere=True)}
    missing = []
    for package, path in FILES:
        module, exported, defined = _name_module(package, path), None, set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    defined.add(name)
                case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                    exported = set(ast.literal_eval(value))
        if exported is not None:
            names = {name for name in defined - exported if not name.startswith("_")}
            missing += [f"{module}.{name}" for name in names if f"{module}.{name}" in imported]
    assert not missing


INITS = [path for _, path in FILES if path.name == "__init__.py"]


@pytest.mark.parametrize("path", INITS, ids=[str(p.relative_to(ROOT)) for p in INITS])
def test_no_module_has_the_name_of_an_export_of_its_package(path):
    """Importing `hermes.train` as a module would put it in the place of `hermes.train`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    exported = {
        name
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        for name in ast.literal_eval(node.value)
    }
    modules = {file.stem for file in path.parent.glob("*.py")}
    modules |= {file.parent.name for file in path.parent.glob("*/__init__.py")}
    assert not exported & modules


@pytest.mark.parametrize("statement", ["import hermes", "import hermes.interface, hermes.mal"])
def test_importing_hermes_loads_no_framework(statement):
    code = f"{statement}\nimport sys\nprint(*set(sys.modules) & {FRAMEWORKS})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# What takes long to import, and what answers without it: frameworks, NumPy, what reads files.
HEAVY = {
    *("torch", "mlx", "mlx.core", "numpy", "ml_dtypes", "tokenizers", "matplotlib", "safetensors"),
    *("yaml", "jinja2", "asyncio", "concurrent.futures", "multiprocessing", "huggingface_hub"),
    *(
        "hermes.checkpoint",
        "hermes.tokenizer",
        "hermes.data",
        "hermes.training",
        "hermes.inference",
    ),
    *("hermes.interface", "hermes.interop.hub"),
}


@pytest.mark.parametrize(
    ("command", "allowed"),
    [
        (["--help"], set()),
        (["--version"], set()),
        (["train", "--help"], {"multiprocessing"}),  # which its launcher needs
        (["generate", "--help"], set()),
        (["models"], set()),
        (["info", "--model", "nano"], set()),
        (["info", "--model", "own.mal"], set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_answers_at_once_imports_nothing_heavy(command, allowed, tmp_path):
    bundled = PACKAGES["hermes_specs"] / "models" / "nano.mal"
    (tmp_path / "own.mal").write_bytes(bundled.read_bytes())
    code = (
        "import sys\nfrom hermes_cli.main import main\n"
        f"sys.argv = ['hermes', *{command!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"loaded = set(sys.modules) & {HEAVY - allowed!r}\n"
        "print('loaded:', *sorted(loaded), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stderr.strip().endswith("loaded:")


def test_torch_without_compiling_does_not_import_its_compiler():
    """It takes longer to import than all the rest of a start."""
    pytest.importorskip("torch")
    code = (
        "import sys, hermes_torch.backend\n"
        "print(*{'torch._dynamo', 'torch._inductor', 'sympy', 'torch.onnx'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_training_does_not_import_what_only_generating_and_converting_need():
    pytest.importorskip("mlx")
    needless = {"hermes.model", "hermes.inference.engine", "hermes.interop.convert"}
    needless |= {"asyncio", "unittest.mock"}  # torch imports them by itself
    code = (
        "import sys, hermes_cli.commands.train, hermes.api, hermes_mlx.backend\n"
        f"print(*{needless!r} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_public_name_of_hermes_can_be_had():
    import hermes

    for name in hermes.__all__:
        assert getattr(hermes, name) is not None


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_tells_type_checkers_that_it_is_typed(package):
    assert (PACKAGES[package] / "py.typed").is_file()
