"""Configs: frozen objects that sit beside what they configure, read from YAML files and from ``key=value`` words.

A recipe is started as ``recipes/NAME.py --config FILE.yaml key=value …``; the words win over the file. Every key is
checked before any work: an unknown one, a wrong type, a value out of range is an `InputError` with its place.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, ValidationInfo, field_validator

from cai.errors import InputError, Problem
from cai.storage import digest

if TYPE_CHECKING:
    from cai.strict_yaml import Tree

COMMAND_LINE = "command line"

Paths = Annotated[list[Path], BeforeValidator(lambda given: [given] if isinstance(given, str | Path) else given)]
"""Files; a single one may stand without a list."""


class Config(BaseModel):
    """The root of all configs: frozen, keyword-only, unknown keys refused. Each field's docstring says its unit."""

    # A key that stands in the wrong field must not be shown by the error that refuses it.
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `epochs: true`, which Python would take for 1."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        kinds = get_args(annotation) or (annotation,)
        if isinstance(value, bool) and bool not in kinds and {int, float} & set(kinds):
            raise ValueError("true or false, where a number belongs; write the number")
        return value

    def to_plain(self) -> dict[str, Any]:
        """Return the resolved config as plain JSON types: what a run folder keeps."""
        return self.model_dump(mode="json")

    @property
    def digest(self) -> str:
        """A hash of every setting."""
        return digest(self.to_plain())


C = TypeVar("C", bound=Config)


def load_config(cls: type[C], path: Path | None, words: Sequence[str] = ()) -> C:
    """Return a config from a YAML file, if any, with ``key=value`` words laid over it; dots go down into sections.

    Values are read as YAML reads them (``lr=2e-5``, ``data=[a.jsonl, b.jsonl]``). Raises InputError, with the place in
    the file or the word, for everything that does not fit.
    """
    from cai.strict_yaml import Tree, load

    tree = load(path) if path else Tree(COMMAND_LINE, {}, {}, {})
    if not isinstance(tree.data, dict):
        raise InputError(Problem(tree.name, 1, 1, "not a mapping of settings", "write them as 'key: value'"))
    said = [(_lay_over(tree.data, word), word) for word in words]
    try:
        return cls.model_validate(tree.data)
    except ValidationError as error:
        raise InputError(_problems(error, tree, cls, said)) from error


def problems_of(where: str, error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """Return pydantic's complaints about settings that stand under `where`, a dotted name without lines."""
    from cai.strict_yaml import Tree
    from cai.strict_yaml import problems_of as placed

    return [
        Problem(where, 0, 0, problem.problem, problem.fix) for problem in placed(error, Tree(where, {}, {}, {}), model)
    ]


def _lay_over(data: dict[str, Any], word: str) -> tuple[str, ...]:
    from cai.strict_yaml import load

    name, equals, text = word.partition("=")
    if not equals or not name:
        raise InputError(Problem(COMMAND_LINE, 0, 0, f"{word!r} is no setting", "write it as key=value"))
    keys = tuple(name.split("."))
    section = data
    for key in keys[:-1]:
        section = section.setdefault(key, {})
        if not isinstance(section, dict):
            raise InputError(Problem(COMMAND_LINE, 0, 0, f"{word!r}: {key!r} is not a section", "shorten the key"))
    try:
        section[keys[-1]] = load(text, name=word).data if text.strip() else ""
    except InputError as error:
        raise InputError([Problem(word, 0, 0, item.problem, item.fix) for item in error.problems]) from error
    return keys


def _problems(
    error: ValidationError, tree: "Tree", cls: type[Config], said: Sequence[tuple[tuple[str, ...], str]]
) -> list[Problem]:
    from cai.strict_yaml import problems_of as placed

    problems = []
    for item, problem in zip(error.errors(), placed(error, tree, cls), strict=True):
        word = _word_at(item["loc"], tree, said)
        if word is None and tree.name == COMMAND_LINE:
            word = COMMAND_LINE
        problems.append(Problem(word, 0, 0, problem.problem, problem.fix) if word else problem)
    return problems


def _word_at(location: tuple[str | int, ...], tree: "Tree", said: Sequence[tuple[tuple[str, ...], str]]) -> str | None:
    """Return the word that a complaint is about: the last that set the value, or made the section that it is in."""
    names = tuple(str(part) for part in location)
    for keys, word in reversed(said):
        made = bool(names) and keys[: len(names)] == names and location not in tree.values
        if made or names[: len(keys)] == keys:
            return word
    return None
