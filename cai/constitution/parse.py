"""From a file, or the name of a shipped one, to a constitution; whatever is wrong is named by its place."""

from pathlib import Path

from cai.constitution.extends import Files, merged
from cai.constitution.model import Constitution
from cai.errors import InputError, Problem
from cai.strict_yaml import Tree, load, suggestion, validate

_PACKAGE = Path(__file__).parent.parent
SUFFIXES = (".yaml", ".yml", ".md")


def shipped() -> dict[str, Path]:
    """Return the constitutions that come with cai, by name."""
    # A wheel has them inside the package, a source checkout beside it. Inside comes first: what stands beside an
    # installed package is somebody else's.
    for folder in (_PACKAGE / "_constitutions", _PACKAGE.parent / "constitutions"):
        found = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
        if found:
            return found
    return {}


def load_constitution(source: str | Path) -> Constitution:
    """Read a constitution from a YAML or Markdown file, or by the name of a shipped one (``harmless``).

    A bare name of a shipped one always means that one: write ``./harmless`` for a file of your own.

    Raises InputError that names every problem with its line and column.
    """
    return read_constitution(load_tree(source))


def load_tree(source: str | Path) -> Tree:
    """Return what the file of a constitution says, and where: the tree that `read_constitution` reads.

    What it `extends` is in it already. Raises InputError.
    """
    return merged(_tree_of(find_file(source)), Files(_beside, _tree_of, read_constitution))


def constitution_files(source: str | Path) -> tuple[Path, ...]:
    """Return the file of a constitution and those it extends: what it depends on. Raises InputError."""
    seen: list[Path] = []

    def read(path: Path) -> Tree:
        seen.append(path)
        return _tree_of(path)

    merged(read(find_file(source)), Files(_beside, read, lambda tree: None))
    return tuple(dict.fromkeys(seen))


def _tree_of(path: Path) -> Tree:
    if path.suffix.lower() == ".md":
        from cai.constitution.markdown import markdown_tree

        return markdown_tree(path)
    tree = load(path)
    if not isinstance(tree.data, dict):
        raise InputError(Problem(tree.name, 1, 1, "not a constitution", "write 'name', 'version' and 'principles'"))
    return tree


def _beside(said: str, folder: Path | None) -> Path:
    """Return the file that `extends` names: a shipped one, or a path from the folder of the file that says it."""
    is_name = len(Path(said).parts) == 1 and not Path(said).suffix
    return find_file(said if is_name or folder is None else folder / said)


def read_constitution(tree: Tree) -> Constitution:
    """Return the constitution of a tree; raises InputError."""
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


def find_file(source: str | Path) -> Path:
    """Return the file of a path or of a shipped constitution's name; raises InputError."""
    known = shipped()
    if str(source) in known:
        return known[str(source)]
    path = Path(source)
    try:
        there, is_file = path.exists(), path.is_file()
    except (OSError, ValueError) as error:  # too long a name, a folder that is closed to us, a NUL
        said = getattr(error, "strerror", None) or str(error)
        raise InputError(Problem(str(source), 0, 0, f"can't be read: {said}", "check the path")) from error
    if not there and (path.suffix or len(path.parts) > 1):
        raise InputError(Problem(str(source), 0, 0, "no such file", "check the path"))
    if not there:
        problem = "no such file, and no shipped constitution of that name"
        fix = suggestion(str(source), known)
        if fix.startswith("did you mean"):
            fix += f" (shipped are {', '.join(known)})"
        raise InputError(Problem(str(source), 0, 0, problem, fix))
    if is_file and path.suffix.lower() not in SUFFIXES:
        raise InputError(Problem(str(source), 0, 0, "not a YAML file", "name a file that ends in .yaml or .md"))
    return path
