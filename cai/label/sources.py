"""Where the two answers of a pair come from: one small class for each way.

A source says which model is asked what, and what is compared of the answers. All but `Revisions` sample; what they
sample is journalled as it comes (`cai.label.respond`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cai.constitution import Constitution, Principle, draw
from cai.engines.build import EngineConfig
from cai.errors import InputError, Problem
from cai.judges.contrastive import told
from cai.label.config import LabelConfig
from cai.records.index import Records
from cai.records.journal import read_ranks
from cai.records.loaders import PromptSet
from cai.records.schema import Critique, Draft, Prompt, Revision
from cai.storage import seed_from
from cai.types import Dialogue


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One answer that is to be sampled: a dialogue, and which of the source's engines answers it."""

    prompt: Prompt
    sample: int
    dialogue: Dialogue
    engine: int = 0


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answers to one prompt: the two that are compared, A before B, or more, of which the judge takes two."""

    prompt: Prompt
    answers: tuple[Draft | Revision, ...]
    principle: Principle | None = None
    """The principle that the answers were made by, if they were: it is the first to judge them."""


class Source(Protocol):
    """Where answers come from."""

    @property
    def engines(self) -> Sequence[EngineConfig]:
        """The models that are asked, one after the other."""
        ...

    def asks(self, prompt: Prompt) -> Sequence[Ask]:
        """Return what is to be sampled for a prompt."""
        ...

    def answers(self, prompt: Prompt, sampled: Sequence[Draft]) -> Iterable[Answers]:
        """Return what is to be compared, given the samples that did not fail, in their order."""
        ...


def build_source(config: LabelConfig, constitution: Constitution, prompts: PromptSet) -> Source:
    """Return the source that a config names; raises InputError when it has nothing for these prompts."""
    pairs = config.pairs
    if pairs.kind == "models" and pairs.other is not None:
        return Models(config.engine, pairs.other)
    if pairs.kind == "revisions" and pairs.run is not None:
        return Revisions.read(pairs.run, prompts)
    if pairs.kind == "contrast":
        return Contrast(config.engine, constitution, seed=config.seed, tags=tuple(config.tags))
    return Samples(config.engine, count=pairs.n if pairs.kind == "best_of" else 2)


class Samples:
    """Answers of one model at the sampling's temperature (Bai et al. 2022, section 4.1)."""

    def __init__(self, engine: EngineConfig, *, count: int = 2) -> None:
        """Ask one model `count` times."""
        self.engines: tuple[EngineConfig, ...] = (engine,)
        self._count = count

    def asks(self, prompt: Prompt) -> list[Ask]:
        """Return the same question, so many times."""
        return [Ask(prompt=prompt, sample=number, dialogue=prompt.messages) for number in range(self._count)]

    def answers(self, prompt: Prompt, sampled: Sequence[Draft]) -> list[Answers]:
        """Return all of them together; fewer than two are no pair."""
        return [Answers(prompt=prompt, answers=tuple(sampled))] if len(sampled) > 1 else []


class Models(Samples):
    """A is one model's answer and B another's: two checkpoints, or a model and its parent."""

    def __init__(self, first: EngineConfig, second: EngineConfig) -> None:
        """Ask both once."""
        super().__init__(first)
        self.engines = (first, second)

    def asks(self, prompt: Prompt) -> list[Ask]:
        """Return the same question to both."""
        return [Ask(prompt=prompt, sample=number, dialogue=prompt.messages, engine=number) for number in range(2)]


class Contrast(Samples):
    """A is told a drawn principle in its system turn, B the principle's contrast (RLCD, arXiv 2307.12950, section 3).

    Neither answer keeps the instruction: what is learned from them is to answer so without being told.
    """

    def __init__(self, engine: EngineConfig, constitution: Constitution, *, seed: int, tags: tuple[str, ...]) -> None:
        """Ask one model twice under a constitution's principles."""
        super().__init__(engine)
        self._constitution, self._seed, self._tags = constitution, seed, tags

    def asks(self, prompt: Prompt) -> list[Ask]:
        """Return the question after the principle, and after its contrast."""
        principle = self._drawn(prompt)
        return [
            Ask(prompt=prompt, sample=number, dialogue=told(instruction, prompt.messages))
            for number, instruction in enumerate((principle.text, principle.contrast))
        ]

    def answers(self, prompt: Prompt, sampled: Sequence[Draft]) -> list[Answers]:
        """Return both answers, with their principle."""
        if len(sampled) < 2:
            return []
        return [Answers(prompt=prompt, answers=tuple(sampled), principle=self._drawn(prompt))]

    def _drawn(self, prompt: Prompt) -> Principle:
        return draw(self._constitution, seed_from(self._seed, "contrast", prompt.id), tags=self._tags)


class Revisions:
    """A is a chain's draft and B its last revision, from the journals of a generate stage; nothing is sampled."""

    engines: tuple[EngineConfig, ...] = ()

    def __init__(self, drafts: Records, revisions: Records, chains: dict[str, list[tuple[str, str]]]) -> None:
        """Hold, for each prompt's id, the keys of the ends of its chains; texts are read when they are asked for."""
        self._drafts, self._revisions, self._chains = drafts, revisions, chains

    @classmethod
    def read(cls, folder: Path, prompts: PromptSet) -> "Revisions":
        """Read a folder's journals; raises InputError when no chain there is of these prompts."""
        drafts, critiques, revisions = (read_ranks(folder, name) for name in ("drafts", "critiques", "revisions"))
        # A revision's parent is its critique, whose parent is the answer; revised at once, it is the answer itself.
        criticised = {each.id: each.answer for each in critiques.values() if isinstance(each, Critique)}
        after: dict[str, tuple[str, str]] = {}
        for each in revisions.values():
            if isinstance(each, Revision):
                after[criticised.get(each.critique, each.critique)] = each.id, each.key
        chains: dict[str, list[tuple[str, str]]] = {}
        for draft in drafts.values():
            last = None
            answer = draft.id
            while answer in after:
                answer, last = after[answer]
            if isinstance(draft, Draft) and last is not None and prompts.position(draft.prompt):
                chains.setdefault(draft.prompt, []).append((draft.key, last))
        if not chains:
            fix = "give the folder that out= of cai generate named, and the prompts that it was given"
            raise InputError(Problem(str(folder), 0, 0, "no revision of an answer to these prompts", fix))
        return cls(drafts, revisions, chains)

    def asks(self, prompt: Prompt) -> list[Ask]:
        """Return nothing: all answers are there."""
        return []

    def answers(self, prompt: Prompt, sampled: Sequence[Draft]) -> list[Answers]:
        """Return a pair for each of the prompt's chains that has a revision."""
        ends = [(self._drafts[draft], self._revisions[last]) for draft, last in self._chains.get(prompt.id, [])]
        return [
            Answers(prompt=prompt, answers=(draft, last))
            for draft, last in ends
            if isinstance(draft, Draft) and isinstance(last, Revision)
        ]
