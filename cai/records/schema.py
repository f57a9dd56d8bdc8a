"""The records: Prompt → Draft → Critique → Revision → Preference → EvalResult.

A record has two names. Its **key** is known before the work is done: a hash of what was asked (parents, stage, round,
principle, sampling, model, seed). Its **id** is a hash of all its content, parents included. A run resumes by keys;
lineage is by ids.
"""

from typing import Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from cai.storage import digest
from cai.types import Dialogue, FinishReason

SCHEMA = 1
"""Goes up when a field changes its meaning; records of another schema are refused, and the error says why."""

PromptKind = Literal["red_team", "benign", "helpful"]
"""``benign`` prompts look like red-team prompts and deserve a full answer: they measure over-refusal."""


def short(value: Any) -> str:
    """Return the first 32 hex characters (128 bits) of a value's digest: what ids and keys are made of."""
    return digest(value)[:32]


class Strict(BaseModel):
    """Frozen, no unknown fields, no silent conversion of types, no number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Provenance(Strict):
    """How a text came about."""

    engine: str
    model: str
    """Digest or revision of the weights that wrote it."""
    seed: int
    sampling: dict[str, float | int | tuple[str, ...]] = Field(default_factory=dict)
    constitution: str | None = None
    """Digest of the constitution it was made under."""


class Record(Strict):
    """The root of all records. `type` tells them apart in a journal."""

    kind_name: ClassVar[str]

    key: str

    @property
    def id(self) -> str:
        """A hash of the content, the parents' ids among it."""
        return short([self.kind_name, SCHEMA, self.model_dump(mode="json")])

    def to_json(self) -> dict[str, Any]:
        """Return the journal's form: the fields, with the record's type, schema and id."""
        return {"type": self.kind_name, "schema": SCHEMA, "id": self.id, **self.model_dump(mode="json")}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        """Read the journal's form back; raises ValueError when the content does not hash to its id."""
        if row.get("schema") != SCHEMA:
            raise ValueError(f"a record of schema {row.get('schema')}; this version of cai reads schema {SCHEMA}")
        fields = {name: value for name, value in row.items() if name not in ("type", "schema", "id")}
        record = cls.model_validate(fields, strict=False)
        if record.id != row.get("id"):
            raise ValueError(f"the content hashes to {record.id}, the id says {row.get('id')}")
        return record


class Prompt(Record):
    """A dialogue that awaits an answer: it ends with the turn of a person.

    Its key is a hash of the dialogue alone, so the same prompt from two files is one prompt.
    """

    kind_name = "prompt"

    messages: Dialogue
    kind: PromptKind
    category: str = ""
    source: str = ""

    @model_validator(mode="after")
    def _awaits_an_answer(self) -> Self:
        if not self.messages or self.messages[-1].role != "user":
            raise ValueError("a prompt ends with the turn of a person")
        if self.key != _key_of(self.messages):
            raise ValueError(f"the messages hash to the key {_key_of(self.messages)}, the key says {self.key}")
        return self

    @classmethod
    def of(cls, messages: Dialogue, *, kind: PromptKind, category: str = "", source: str = "") -> Self:
        """Return the prompt of a dialogue, with the key that belongs to it."""
        return cls(key=_key_of(messages), messages=messages, kind=kind, category=category, source=source)

    @property
    def text(self) -> str:
        """The last turn: what the person asks."""
        return self.messages[-1].content


def _key_of(dialogue: Dialogue) -> str:
    return short(["prompt", [list(message) for message in dialogue]])


class Written(Record):
    """A text that a model wrote."""

    text: str
    thinking: str = ""
    """What a reasoning model thought before it; not part of the text, and no field at all where there is none."""
    finish_reason: FinishReason
    provenance: Provenance

    @model_serializer(mode="wrap")
    def _without_empty_thinking(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in fields(self).items() if name != "thinking" or value}


class Draft(Written):
    """A model's answer to a prompt: the start of a critique chain, or one side of a pair."""

    kind_name = "draft"

    prompt: str
    """Id of the prompt."""
    sample: int
    """Which of the prompt's samples this is, from 0."""


class Critique(Written):
    """What is wrong with an answer by one principle."""

    kind_name = "critique"

    prompt: str
    answer: str
    """Id of the draft or revision that is criticised."""
    round: int
    """From 1."""
    principle: str


class Revision(Written):
    """An answer rewritten after its critique."""

    kind_name = "revision"

    prompt: str
    critique: str
    """Id of the critique it follows from."""
    round: int
    principle: str


class Preference(Record):
    """Two answers to one dialogue and how probable it is that A is the better one.

    It carries the texts, so a preference from a file made elsewhere is one too.
    """

    kind_name = "preference"

    prompt: str
    messages: Dialogue
    response_a: str
    response_b: str
    prob_a: float = Field(ge=0.0, le=1.0)
    """A soft label; people's choices are 1 or 0."""
    judge: str
    principles: tuple[str, ...] = ()
    prob_a_by_order: tuple[float, ...] = ()
    spread: float | None = None
    """How far the votes of several principles disagree: the standard deviation of their logits. No field at all where
    nobody counted it."""
    kind: PromptKind = "red_team"
    category: str = ""
    provenance: Provenance | None = None
    answers: tuple[str, str] | None = None
    """Ids of the records of A and B, which say who wrote each. No field at all where the texts came from elsewhere."""

    @model_serializer(mode="wrap")
    def _without_what_is_unknown(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        optional = ("spread", "answers")
        return {name: value for name, value in fields(self).items() if name not in optional or value is not None}


class EvalResult(Record):
    """A candidate's answer and its parent's to one held-out prompt, and what each measure says of them."""

    kind_name = "eval"

    prompt: str
    messages: Dialogue
    kind: PromptKind
    category: str = ""
    candidate: str
    """The candidate's answer."""
    parent: str
    """The parent's answer."""
    wins: dict[str, float | None]
    """Per measure, the probability that the candidate's answer is better; None is an abstention."""
    scores: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """Per measure of single answers, the candidate's and the parent's value."""
    provenance: Provenance | None = None


class Dropped(Record):
    """Work that was done and is not used, with the reason: it stays in the journal, and its key is done."""

    kind_name = "dropped"

    stage: str
    prompt: str
    reason: str
    text: str = ""


TYPES: dict[str, type[Record]] = {
    cls.kind_name: cls for cls in (Prompt, Draft, Critique, Revision, Preference, EvalResult, Dropped)
}
