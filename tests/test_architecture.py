"""The shape of the project, as tests: layers, light imports, mirrored tests, sizes, declared dependencies."""

import ast
import importlib
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TypeGuard

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cai"

LAYERS = [
    {"constitution", "records", "losses"},
    {"engines", "judges"},
    {"generate", "label", "train", "evaluate"},
    {"successor"},
    {"report", "cli"},
]
"""Packages from the highest layer to the lowest, under layer 0: the modules right in `cai`. A layer imports those
above it, never a sibling but for the ones below."""

SIBLINGS = {("judges", "engines"), ("cli", "report")}
"""(who, whom): imports inside a layer that are meant."""

LIGHT = {"constitution", "records"}
"""Packages that can be imported without torch, as layer 0 can."""

UNMIRRORED: dict[str, str] = {}
"""Modules without a test file of their own, and why. `__init__.py` and `__main__.py` need none."""

MOST_LINES = 400
MOST_FUNCTION_LINES = 60


def modules(package: Path = PACKAGE) -> list[Path]:
    return sorted(path for path in package.rglob("*.py") if "_constitutions" not in path.parts)


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def is_text(node: ast.expr) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield every node, those inside functions too, but for what only a type checker sees."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and is_type_checking(child.test):
            for other in child.orelse:
                yield from walk(other)
        else:
            yield from walk(child)


def imports(source: str, module: str, *, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of all that a module imports; ``from a import b`` gives ``a.b``."""
    for node in walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                home = module.split(".")
                home = home[: len(home) - node.level + is_package]
                base = ".".join([*home, base] if base else home)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from ((node.lineno, str(arg.value)) for arg in node.args[:1] if is_text(arg))


def imports_of(path: Path) -> list[tuple[int, str]]:
    return list(imports(path.read_text("utf-8"), dotted(path), is_package=path.name == "__init__.py"))


def layer_of(part: str) -> int:
    """Return the number of a package's layer; 0 for the modules right in `cai`."""
    return next((number for number, names in enumerate(LAYERS, start=1) if part in names), 0)


def may_import(who: str, whom: str) -> bool:
    if who == whom or (who, whom) in SIBLINGS:
        return True
    if layer_of(who) == layer_of(whom) == 0:
        return True
    return layer_of(whom) < layer_of(who)


def wrong_imports(path: Path) -> list[str]:
    who = dotted(path).split(".")[1]
    found = []
    for line, name in imports_of(path):
        parts = name.split(".")
        if parts[0] in {"recipes", "tests"}:
            found.append(f"{path.relative_to(ROOT)}:{line}: the package must not import {name}")
        if parts[0] != "cai" or len(parts) == 1 or parts[1].startswith("__"):
            continue
        if not (PACKAGE / parts[1]).is_dir() and not (PACKAGE / f"{parts[1]}.py").is_file():
            found.append(f"{path.relative_to(ROOT)}:{line}: import {name} from its home, not from the front door")
        elif not may_import(who, parts[1]):
            found.append(f"{path.relative_to(ROOT)}:{line}: {who} must not import {name}")
    return found


# The rules, each first shown to bite.


def test_imports_are_found_wherever_they_are() -> None:
    source = """
import cai.train
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from cai.cli import main
def late():
    from ..engines import build
    from . import lint
    importlib.import_module("cai.report.page")
"""
    found = {name for _, name in imports(source, "cai.constitution.parse")}
    assert found == {
        "cai.train",
        "typing.TYPE_CHECKING",
        "cai.engines.build",
        "cai.constitution.lint",
        "cai.report.page",
    }
    inside = {name for _, name in imports("from . import base", "cai.engines", is_package=True)}
    assert inside == {"cai.engines.base"}


@pytest.mark.parametrize(
    ("who", "whom", "allowed"),
    [
        ("types", "errors", True),
        ("engines", "storage", True),
        ("storage", "records", False),
        ("judges", "engines", True),
        ("engines", "judges", False),
        ("records", "constitution", False),
        ("label", "generate", False),
        ("train", "losses", True),
        ("successor", "train", True),
        ("evaluate", "successor", False),
        ("cli", "report", True),
        ("report", "cli", False),
    ],
)
def test_layers_say_who_may_import_whom(who: str, whom: str, allowed: bool) -> None:
    assert may_import(who, whom) is allowed


def test_layers_are_kept() -> None:
    wrong = [line for path in modules() if path != PACKAGE / "__init__.py" for line in wrong_imports(path)]
    assert not wrong, "\n".join(wrong)


def test_every_package_has_a_layer() -> None:
    packages = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert packages <= set().union(*LAYERS), "name the new package in LAYERS, and in docs/design"


@pytest.mark.parametrize("name", [dotted(path) for path in modules() if path.name != "__main__.py"])
def test_every_module_imports(name: str) -> None:
    assert importlib.import_module(name).__doc__, f"{name} has no docstring"


def test_import_cai_is_quick_and_loads_no_torch() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import cai; took = time.perf_counter() - start;"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules; print(took)"
    )
    took = [
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
        for _ in range(5)
    ]
    assert statistics.median(took) < 0.3, took


def test_vocabulary_and_domain_load_no_torch() -> None:
    parts = {name: name.split(".")[1] for name in map(dotted, modules()) if "." in name}
    light = [name for name, part in parts.items() if layer_of(part) == 0 or part in LIGHT]
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
    code += "    assert 'torch' not in sys.modules, name + ' loads torch'\n"
    done = subprocess.run([sys.executable, "-c", code, *light], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_module_has_its_mirror_in_tests() -> None:
    missing = []
    for path in modules():
        if path.name in {"__init__.py", "__main__.py"}:
            continue
        inside = path.relative_to(PACKAGE)
        if not (ROOT / "tests" / inside.with_name(f"test_{inside.name}")).is_file() and dotted(path) not in UNMIRRORED:
            missing.append(f"{path.relative_to(ROOT)} has no tests/{inside.with_name(f'test_{inside.name}')}")
    assert not missing, "\n".join(missing)
    assert set(UNMIRRORED) <= {dotted(path) for path in modules()}, "an exemption for a module that is gone"


def python_files() -> list[Path]:
    folders = [ROOT / name for name in ("cai", "recipes", "benchmarks", "scripts", "tests")]
    return [path for folder in folders if folder.is_dir() for path in modules(folder)]


def test_files_and_functions_can_be_read_in_one_go() -> None:
    long = []
    for path in python_files():
        source = path.read_text("utf-8")
        lines = source.count("\n")
        if lines > MOST_LINES:
            long.append(f"{path.relative_to(ROOT)}: {lines} lines, of {MOST_LINES}")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                if size > MOST_FUNCTION_LINES:
                    place = f"{path.relative_to(ROOT)}:{node.lineno}"
                    long.append(f"{place}: {node.name} has {size} lines, of {MOST_FUNCTION_LINES}")
    assert not long, "\n".join(long)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_names(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[^\w.-]", requirement, maxsplit=1)[0]) for requirement in requirements}


def test_what_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    declared = requirement_names(project["dependencies"])
    declared |= requirement_names([line for name, lines in extras.items() if name != "dev" for line in lines])
    homes = metadata.packages_distributions()
    undeclared = set()
    for path in [*modules(), *modules(ROOT / "recipes")]:
        for _, name in imports_of(path):
            top = name.split(".")[0]
            ours = top in sys.stdlib_module_names or top in {"cai", "recipes"}
            if not ours and not {normal(home) for home in homes.get(top, [top])} & declared:
                undeclared.add(f"{path.relative_to(ROOT)} imports {top}, which pyproject.toml does not name")
    assert not undeclared, "\n".join(sorted(undeclared))


def test_every_declared_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    odd = [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", line)]
    assert not odd, f"a lock has names and versions only, no places and no local builds: {odd}"
    installed = [line for name in ("dev", "embedded", "quantization", "tracking") for line in extras[name]]
    assert requirement_names(project["dependencies"] + installed) <= requirement_names(pins)
