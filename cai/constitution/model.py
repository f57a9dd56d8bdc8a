"""A constitution and its principles. One principle drives critique, revision, comparison and audit."""

import re
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from cai.constitution.checkers import find_checker
from cai.constitution.render import fill, placeholders
from cai.storage import digest

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=8000)]
"""A wording. Derived ones hold a principle's text, so that is shorter."""
Short = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]
Note = Annotated[str, StringConstraints(strip_whitespace=True, max_length=8000)]

DERIVED = {
    "critique": "Point out specific ways in which the assistant's last answer goes against this: {text}",
    "revision": "Rewrite the assistant's last answer so that it follows this: {text}",
    "comparison": "Which of these answers follows this better: {text}",
    "contrast": "Do the opposite of this: {text}",
}
"""What stands for a wording that a principle does not give. `{text}` is the principle's own text.

A constitution replaces them, one or all, under its key `wordings`.
"""


def _template(given: str) -> str:
    unknown = [name for name in placeholders(given) if name != "text"]
    if unknown:
        raise ValueError(f"unknown placeholder {{{unknown[0]}}}; use {{text}}")
    if placeholders(given).count("text") != 1:
        raise ValueError("the principle's own text must be in it once; write {text} where it belongs")
    return given


Template = Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000), AfterValidator(_template)]


class Part(BaseModel):
    """Frozen, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class Wordings(Part):
    """The templates for wordings that principles don't give; each has the place ``{text}`` and no other."""

    critique: Template = DERIVED["critique"]
    revision: Template = DERIVED["revision"]
    comparison: Template = DERIVED["comparison"]
    contrast: Template = DERIVED["contrast"]


def _checker(given: str) -> str:
    if given:
        find_checker(given)
    return given


Checker = Annotated[str, StringConstraints(strip_whitespace=True, max_length=600), AfterValidator(_checker)]


class Probe(Part):
    """A prompt that tests a principle, and one that looks alike and deserves a full answer."""

    prompt: Text
    twin: Note = ""


_LISTS = ("tags", "few_shots", "comparison_shots", "probes", "path")
_PROHIBITION = re.compile(r"(?:never|do not|don't|avoid|no)\b", re.IGNORECASE)


class Principle(Part):
    """One thing that answers are held to, and the wordings in which each stage asks about it.

    >>> Principle(id="calm", text="Stay calm.").comparison
    'Which of these answers follows this better: Stay calm.'
    """

    id: Slug
    """Small letters, digits, - and _; records name the principle by it."""
    title: Text = ""
    """A short name for people; the id with spaces when it is not given."""
    text: Short
    """What an answer should be or do, as an instruction to the one who answers."""
    critique: Text = ""
    """Asks for what is wrong with an answer by this principle."""
    revision: Text = ""
    """Asks for a better answer."""
    comparison: Text = ""
    """Asks which of two answers follows the principle better; it must not hint at one of them."""
    contrast: Text = ""
    """The opposite instruction: what a model would be told that should break the principle."""
    weight: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0
    """How often it is drawn, and how much it counts in an average, relative to the others."""
    tags: tuple[Slug, ...] = ()
    priority: Literal["hard"] | Annotated[int, Field(ge=1, le=99)] = 1
    """``hard`` is a constraint that nothing outweighs; else a tier, of which 1 comes first."""
    framing: Literal["do", "avoid"] = "do"
    """Whether the text says what to do or what to avoid; read off its first word when it is not given."""
    few_shots: tuple["FewShot", ...] = ()
    """Examples of this principle alone, of critiques and revisions."""
    comparison_shots: tuple["ComparisonShot", ...] = ()
    """Examples of this principle alone, of comparisons."""
    probes: tuple["Probe", ...] = ()
    """Prompts that test it."""
    checker: Checker = ""
    """A rule that a program can decide, by its name in `cai.constitution.checkers`: ``max_words:120``."""
    gate_margin: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.0
    """How far below its parent a successor may fall on this principle's probes, as a share of them."""
    path: tuple[Text, ...] = ()
    """The headings it stands under in a document of prose, the outermost first."""
    source: Note = ""
    """Where it comes from, if from somewhere else."""

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        filled = dict(given)
        if isinstance(given.get("id"), str):
            filled.setdefault("title", given["id"].replace("-", " ").replace("_", " ").capitalize())
        if isinstance(given.get("text"), str):
            filled = _worded(filled, DERIVED)
            filled.setdefault("framing", "avoid" if _PROHIBITION.match(given["text"].strip()) else "do")
        filled.update({name: tuple(given[name]) for name in _LISTS if isinstance(given.get(name), list)})
        for name in ("weight", "gate_margin"):
            if isinstance(given.get(name), int) and not isinstance(given[name], bool):
                filled[name] = float(given[name])
        return filled

    def check(self, answer: str) -> bool | None:
        """Tell whether an answer passes the checker; None without one, or when it could not decide."""
        return find_checker(self.checker)(answer) if self.checker else None


def _worded(principle: dict[str, Any], templates: dict[str, str]) -> dict[str, Any]:
    text = principle["text"].strip()
    derived = {name: fill(template, text=text) for name, template in templates.items()}
    return {**derived, **principle}


class FewShot(Part):
    """An example of a critique and a revision, shown before the real request."""

    prompt: Text
    """What a person asked."""
    response: Text
    """The answer that is criticised."""
    critique_request: Text
    critique: Text
    revision_request: Text
    revision: Text


class ComparisonShot(Part):
    """An example of a comparison: which of two answers is better, and why."""

    prompt: Text
    """What a person asked."""
    chosen: Text
    """The better answer."""
    rejected: Text
    """The worse one."""
    reasons: Note = ""
    """What is thought before the choice, where a judge thinks first."""
    place: Literal["", "A", "B"] = ""
    """Where the better answer stands, if the reasons speak of places; else examples take turns."""


def _some(principles: tuple[Principle, ...]) -> tuple[Principle, ...]:
    # Not `min_length`: when every principle has a fault, pydantic would add that there is none.
    if not principles:
        raise ValueError("there is no principle; write at least one")
    return principles


_PARTS = ("principles", "few_shots", "comparison_shots")


class Constitution(Part):
    """A named, versioned set of principles."""

    name: Slug
    version: Text
    description: Note = ""
    licence: Note = ""
    wordings: Wordings = Wordings()
    """Replaces the templates of what principles leave out."""
    principles: Annotated[tuple[Principle, ...], AfterValidator(_some), Field(json_schema_extra={"minItems": 1})]
    few_shots: tuple[FewShot, ...] = ()
    """Examples for critique and revision, shown in this order."""
    comparison_shots: tuple[ComparisonShot, ...] = ()
    """Examples for comparison."""

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        lists = {name: tuple(given[name]) for name in _PARTS if isinstance(given.get(name), list)}
        templates = _templates(given.get("wordings"))
        if templates and "principles" in lists:
            lists["principles"] = tuple(
                _worded(item, templates) if isinstance(item, dict) and isinstance(item.get("text"), str) else item
                for item in lists["principles"]
            )
        return {**given, **lists}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content: equal for files that differ in layout, order of keys or comments only.

        What is empty is left out, so a field that a later version adds changes no digest. `wordings` are left out too:
        what they make is in the principles.
        """
        content = self.model_dump(mode="json", exclude={"wordings"})
        for principle in content["principles"]:
            for name, usual in (("priority", 1), ("gate_margin", 0.0), ("framing", "do")):
                if principle[name] == usual:
                    del principle[name]
        return digest(_without_empty(content))

    def __getitem__(self, principle_id: str) -> Principle:
        """Return a principle by its id; raises KeyError."""
        return self._by_id[principle_id]

    @cached_property
    def _by_id(self) -> dict[str, Principle]:
        return {principle.id: principle for principle in self.principles}

    def tagged(self, tags: tuple[str, ...]) -> tuple[Principle, ...]:
        """Return the principles that have one of the tags; all of them for no tags."""
        return tuple(item for item in self.principles if not tags or set(tags) & set(item.tags))


def _templates(given: Any) -> dict[str, str]:
    """Return the templates of a constitution that says some; {} when they are wrong: then its own check tells."""
    if given is None:
        return {}
    try:
        return Wordings.model_validate(given).model_dump()
    except ValidationError:
        return {}


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_empty(part) for key, part in value.items() if part not in ("", None, [], {})}
    return [_without_empty(part) for part in value] if isinstance(value, list) else value
