"""A constitution as a Markdown document that cai wrote, and back: the prose is the principles' text, word for word.

One section per principle: its title as the heading, its text as prose, then what else it says in a fenced `yaml` block.
A text that would not survive as prose (it has headings or fences of its own) stands in that block instead. The digest
stays the same on the way there and back. Documents that people wrote are read by `cai.constitution.prose`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai.constitution.model import Constitution
from cai.constitution.prose import checked, prose_tree
from cai.constitution.yaml_out import constitution_fields, yaml_text
from cai.errors import SHOWN, InputError, Problem
from cai.strict_yaml import Location, Place, Tree, load, read_text

if TYPE_CHECKING:
    from markdown_it.token import Token

MARK = "<!-- A constitution, written by cai, which also reads it: keep this line. -->"
_INFO = "yaml"
_EXAMPLES = "Examples"
"""The last section: it has the constitution's own `_SHOTS`, and no id."""
_SHOTS = ("few_shots", "comparison_shots")


def to_markdown(constitution: Constitution) -> str:
    """Return the constitution as a Markdown document that `from_markdown` reads back to the same digest.

    Raises InputError for a character that a file can't hold.
    """
    fields = constitution_fields(constitution)
    principles = fields.pop("principles")
    shots = {name: fields.pop(name) for name in _SHOTS if name in fields}
    title = constitution.name.replace("-", " ").replace("_", " ").capitalize()
    parts = [MARK, _section("#", title, fields, "description", "", constitution.name)]
    for principle, said in zip(constitution.principles, principles, strict=True):
        parts.append(_section("##", principle.title, said, "text", "title", constitution.name))
    if shots:
        parts.append(_rendered("##", _EXAMPLES, "", shots, constitution.name))
    return "\n\n".join(parts) + "\n"


def markdown_tree(path: Path) -> Tree:
    """Return what a Markdown file says: one that cai wrote, or a document of prose. Raises InputError."""
    name = str(path)
    text = read_text(path, name)
    written = text.lstrip("\ufeff\r\n ").startswith(MARK)
    return _written_tree(text, name) if written else prose_tree(text, name=name)


def from_markdown(text: str, *, name: str) -> Constitution:
    """Read a document that `to_markdown` wrote, and people edited since; `name` is what errors call it.

    Raises InputError with the line and column of whatever is wrong.
    """
    from cai.constitution.parse import read_constitution

    return read_constitution(_written_tree(text, name))


def _written_tree(text: str, name: str) -> Tree:
    text = checked(text, name)
    values: dict[Location, Place] = {(): (1, 1)}
    keys: dict[Location, Place] = {}
    data: dict[str, Any] = {}
    principles: list[Any] = []
    problems: list[Problem] = []
    for number, section in enumerate(_sections(text, name)):
        try:
            tree = _read_section(section, name, "text" if number else "description")
        except InputError as error:
            problems.extend(error.problems)
            if len(problems) > SHOWN:
                break
            continue
        shots = [name for name in _SHOTS if name in tree.data]
        if number and shots and set(tree.data) == {"title", *shots}:
            data.update({name: tree.data[name] for name in shots})
            values.update({key: place for key, place in tree.values.items() if key[:1] and key[0] in shots})
            keys.update({key: place for key, place in tree.keys.items() if key[:1] and key[0] in shots})
            continue
        at: Location = ("principles", len(principles)) if number else ()
        values.update({(*at, *key): place for key, place in tree.values.items()})
        keys.update({(*at, *key): place for key, place in tree.keys.items()})
        if number:
            principles.append(tree.data)
        else:
            data = tree.data
    if problems:
        raise InputError(problems)
    if principles:
        values.setdefault(("principles",), values[("principles", 0)])
        data["principles"] = principles
    return Tree(name, data, values, keys)


@dataclass
class _Section:
    """One heading, its prose and its block; lines count from 0."""

    level: int
    title: str
    line: int
    body: str = ""
    body_line: int = 0
    blocks: list["Token"] = field(default_factory=list)


def _section(marks: str, title: str, fields: dict[str, Any], prose: str, titled: str, name: str) -> str:
    """Return a section that reads back as it is: what can't stand as prose or as a heading goes into the block."""
    rest = {key: value for key, value in fields.items() if key not in (prose, titled)}
    text = str(fields.get(prose, ""))
    bare = _rendered(marks, title, text, rest, name)
    read = list(_sections(f"{bare}\n\n## Next\n", name))
    if len(read) == 2 and len(read[0].blocks) == bool(rest) and read[0].title == title and read[0].body == text:
        return bare
    known = {titled: title} if titled else {}
    kept = {**({"id": rest["id"]} if "id" in rest else {}), **known, prose: text, **rest}
    return _rendered(marks, " ".join(title.split()).strip("# ") or "-", "", kept, name)


def _rendered(marks: str, title: str, text: str, rest: dict[str, Any], name: str) -> str:
    parts = [f"{marks} {title}"]
    if text:
        parts.append(text)
    if rest:
        block = yaml_text(rest, name=name)
        fence = "```"
        while fence in block:
            fence += "`"
        parts.append(f"{fence}{_INFO}\n{block}{fence}")
    return "\n\n".join(parts)


def _sections(text: str, name: str) -> Iterator[_Section]:
    """Yield the document's head, then one section per heading of the second level."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").disable(["inline", "reference"], ignoreInvalid=True)
    tokens = parser.parse(text)
    lines = text.split("\n")
    section: _Section | None = None
    for index, token in enumerate(tokens):
        if token.level or token.map is None:
            continue
        if token.type == "heading_open" and token.tag in ("h1", "h2"):
            if section:
                yield _closed(section, lines, token.map[0])
            section = _Section(int(token.tag[1]), tokens[index + 1].content.strip(), token.map[0])
            section.body_line = token.map[1]
        elif section is None and token.type != "html_block":
            raise InputError(Problem(name, token.map[0] + 1, 1, "text before the first heading", "move it below"))
        elif section and token.type == "fence" and token.info.strip() == _INFO:
            section.blocks.append(token)
    if section is None:
        raise InputError(Problem(name, 1, 1, "there is no heading", "begin with '# ' and the constitution's name"))
    yield _closed(section, lines, len(lines))


def _closed(section: _Section, lines: list[str], end: int) -> _Section:
    """Take as prose what stands before the block; a block is the last thing in its section."""
    first = section.blocks[-1].map if section.blocks else None
    section.body = "\n".join(lines[section.body_line : first[0] if first else end]).strip()
    if first and any(line.strip() for line in lines[first[1] : end]):
        section.blocks.append(section.blocks[-1])  # an error below: something follows the block
    return section


def _read_section(section: _Section, name: str, prose: str) -> Tree:
    here = (section.line + 1, 1)
    if not section.blocks:
        raise InputError(Problem(name, *here, f"no {_INFO} block in this section", "add one with an id"))
    if len(section.blocks) > 1:
        line = (section.blocks[-1].map or [section.line])[0] + 1
        raise InputError(Problem(name, line, 1, "something follows the block", "end the section with one block"))
    block = section.blocks[0]
    start = (block.map or [0])[0] + 1
    try:
        tree = load(block.content, name=name)
    except InputError:
        load("\n" * start + block.content, name=name)  # raises it again, with lines of the document
        raise
    if not isinstance(tree.data, dict):
        raise InputError(Problem(name, start + 1, 1, "not 'key: value' lines", "write them so"))
    values = {key: (line + start, col) for key, (line, col) in tree.values.items()}
    keys = {key: (line + start, col) for key, (line, col) in tree.keys.items()}
    data = dict(tree.data)
    if section.body and prose in data:
        raise InputError(Problem(name, *keys[(prose,)], f"{prose!r} stands here and as prose above", "keep one"))
    if section.body:
        data[prose] = section.body
        values[(prose,)] = (section.body_line + 2, 1)
    if section.level > 1 and "title" not in data:
        data["title"] = section.title
        values[("title",)] = here
    values[()] = here
    return Tree(name, data, values, keys)
