"""From a file, or the name of a shipped one, to a constitution; whatever is wrong is named by its place."""

from pathlib import Path

from cai.constitution.model import Constitution
from cai.errors import InputError, Problem
from cai.strict_yaml import Tree, load, suggestion, validate

_PACKAGE = Path(__file__).parent.parent
SUFFIXES = (".yaml", ".yml")


def shipped() -> dict[str, Path]:
    """Return the constitutions that come with cai, by name."""
    # A source checkout has them beside the package; a wheel inside it. The checkout is what people edit: it wins.
    for folder in (_PACKAGE.parent / "constitutions", _PACKAGE / "_constitutions"):
        found = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
        if found:
            return found
    return {}


def load_constitution(source: str | Path) -> Constitution:
    """Read a constitution from a YAML file, or by the name of a shipped one (``harmless``).

    Raises InputError that names every problem with its line and column.
    """
    return read_constitution(load(_path_of(source)))


def read_constitution(tree: Tree) -> Constitution:
    """Return the constitution of a YAML tree; raises InputError."""
    if not isinstance(tree.data, dict):
        raise InputError(Problem(tree.name, 1, 1, "not a constitution", "write 'name', 'version' and 'principles'"))
    constitution = validate(Constitution, tree)
    first: dict[str, int] = {}
    problems: list[Problem] = []
    for index, principle in enumerate(constitution.principles):
        line, col = tree.place(("principles", index, "id"))
        if principle.id in first:
            problem = f"the id {principle.id!r} is there already, in line {first[principle.id]}"
            problems.append(Problem(tree.name, line, col, problem, "give every principle an id of its own"))
        first.setdefault(principle.id, line)
    if problems:
        raise InputError(problems)
    return constitution


def _path_of(source: str | Path) -> Path:
    path = Path(source)
    known = shipped()
    if str(source) in known and not path.is_file():
        return known[str(source)]
    if not path.exists():
        looks_like_a_path = path.suffix or len(path.parts) > 1
        fix = "check the path" if looks_like_a_path else suggestion(str(source), known)
        problem = "no such file" if looks_like_a_path else "no such file, and no shipped constitution of that name"
        raise InputError(Problem(str(source), 0, 0, problem, fix))
    if path.is_file() and path.suffix not in SUFFIXES:
        raise InputError(Problem(str(source), 0, 0, "not a YAML file", "name a file that ends in .yaml"))
    return path
