"""The texts of a test of principles: draft, critique, revision, and what is measured of them, journalled one by one.

Each stage goes over all principles before the next begins: long windows keep the model busy.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from cai.config import Config
from cai.constitution import Constitution, Principle
from cai.constitution.ask import critique_request, revision_request, stops
from cai.engines.base import Engine, Failure, Generated, GenerateRequest, Sampling
from cai.engines.build import EngineConfig, SamplingConfig
from cai.evaluate.principle_measure import Case, measure, unrelated_to
from cai.judges.base import Judge
from cai.progress import progress
from cai.records.journal import Journal, of_type
from cai.records.resume import Planned, fulfil
from cai.records.schema import Critique, Draft, Dropped, EvalResult, Prompt, Provenance, Record, Revision, short
from cai.records.trim import to_last_sentence
from cai.storage import seed_from
from cai.types import Dialogue, FinishReason

R = TypeVar("R", bound=Record)

Tried = dict[str, list[Prompt]]
"""By principle, the prompts that it is tried on."""


class AnswerSampling(SamplingConfig):
    """How answers and revisions are drawn: below temperature 1, so that a small model keeps to the matter."""

    temperature: float = Field(default=0.7, ge=0.0)
    """0 is greedy; then all drafts of a prompt are the same."""
    max_new_tokens: int = Field(default=64, ge=8)


class PrinciplesConfig(Config):
    """Settings of a test of principles."""

    constitution: str
    """A file, or the name of a shipped constitution."""
    engine: EngineConfig = EngineConfig()
    """The model that is tested: it answers, criticises, revises and judges."""
    judge: Literal["contrastive", "pairwise"] = "contrastive"
    """How it compares: a judge that reads principles. ``pairwise`` is for models of some billion parameters."""
    prompts: list[Path] = Field(default_factory=list)
    """Files of prompts for principles without probes; red-team ones stand for probes, others for twins."""
    out: Path | None = None
    """The folder; None makes one of the settings, under ``runs/constitution-test``."""
    seed: int = Field(0, ge=0, lt=2**32)
    drafts: int = Field(2, ge=1)
    """Answers to each probe and each twin."""
    sampling: AnswerSampling = AnswerSampling()
    critique_tokens: int = Field(48, ge=1)
    """The most tokens of a critique."""
    window: int = Field(64, ge=1)
    """Texts worked on together. Part of what a seed means."""


@dataclass(frozen=True)
class Ask:
    """One text that the model is asked for, and how the record of it is made."""

    prompt: Prompt
    dialogue: Dialogue
    record: Callable[["Text"], Record]
    shared: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Text:
    """What came back, and the fields that every record of it has."""

    key: str
    text: str
    finish_reason: FinishReason
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class Thread:
    """One draft on its way by one principle: the one that is tried, or an unrelated one."""

    prompt: Prompt
    draft: Draft
    principle: Principle
    name: str
    """The principle's, in the records: an unrelated one must not pass for one of the constitution's."""
    critique: Critique | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A draft in answer to a probe, and the principles that it goes through the stages by."""

    prompt: Prompt
    draft: Draft
    principle: Principle
    others: tuple[Principle, Principle]

    @property
    def threads(self) -> tuple[Thread, Thread]:
        """Its own, and the unrelated one."""
        own, other = self.principle, self.others[0]
        return (
            Thread(prompt=self.prompt, draft=self.draft, principle=own, name=own.id),
            Thread(prompt=self.prompt, draft=self.draft, principle=other, name=f"unrelated/{other.id}"),
        )


class Trial:
    """The stages of a test, with the journals that they write."""

    def __init__(
        self, config: PrinciplesConfig, constitution: Constitution, engine: Engine, judge: Judge, folder: Path
    ) -> None:
        """Open the journals."""
        self._config, self._constitution, self._engine, self._judge = config, constitution, engine, judge
        self._sampling = config.sampling.to_sampling()
        self._stack = ExitStack()
        self._journals = {
            name: self._stack.enter_context(Journal(folder / f"{name}.jsonl"))
            for name in ("drafts", "critiques", "revisions", "results")
        }

    def __enter__(self) -> "Trial":
        """Return itself: the journals are open since construction."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the journals."""
        self._stack.close()

    def run(self, tried: Tried) -> list[EvalResult]:
        """Take every probe through all stages; return what was measured, in the constitution's order."""
        answers = self._draft(tried)
        threads = {self._key("thread", item.name, item.draft.id): item for own in answers for item in own.threads}
        revisions = self._revise(self._criticise(threads))
        return self._measure(self._cases(answers, revisions))

    def _draft(self, tried: Tried) -> list[Answer]:
        """Answer every prompt; principles that have a prompt in common share its drafts."""
        prompts = {prompt.key: prompt for own in tried.values() for prompt in own}
        samples = range(self._config.drafts)
        asks = {
            self._key("draft", prompt.key, sample): Ask(
                prompt,
                prompt.messages,
                lambda text, prompt=prompt, sample=sample: Draft(  # type: ignore[misc]
                    prompt=prompt.id, sample=sample, **text.__dict__
                ),
            )
            for prompt in prompts.values()
            for sample in samples
        }
        drafts = self._take("drafts", asks, self._sampling, Draft)
        found = []
        for name, own in tried.items():
            principle = self._constitution[name]
            for prompt in own:
                for key in (self._key("draft", prompt.key, sample) for sample in samples):
                    if key in drafts:
                        others = unrelated_to(principle, key)
                        found.append(Answer(prompt=prompt, draft=drafts[key], principle=principle, others=others))
        return found

    def _criticise(self, threads: dict[str, Thread]) -> dict[str, Thread]:
        asks = {}
        for key, item in threads.items():
            asked, shared = critique_request(self._constitution, item.principle, item.prompt.messages, item.draft.text)

            def record(text: Text, item: Thread = item) -> Record:
                return Critique(
                    prompt=item.prompt.id, answer=item.draft.id, round=1, principle=item.name, **text.__dict__
                )

            asks[key] = Ask(item.prompt, asked, record, shared, stops(item.principle.critique))
        sampling = replace(self._sampling, max_new_tokens=self._config.critique_tokens)
        made = self._take("critiques", asks, sampling, Critique)
        return {key: replace(threads[key], critique=critique) for key, critique in made.items()}

    def _revise(self, threads: dict[str, Thread]) -> dict[str, Revision]:
        asks = {}
        for key, item in threads.items():
            critique = item.critique
            assert critique is not None
            asked, shared = revision_request(
                self._constitution, item.principle, item.prompt.messages, item.draft.text, critique.text
            )

            def record(text: Text, item: Thread = item, critique: Critique = critique) -> Record:
                return Revision(
                    prompt=item.prompt.id, critique=critique.id, round=1, principle=item.name, **text.__dict__
                )

            asks[key] = Ask(item.prompt, asked, record, shared, stops(item.principle.revision))
        return self._take("revisions", asks, self._sampling, Revision)

    def _cases(self, answers: Sequence[Answer], revisions: dict[str, Revision]) -> list[Case]:
        """Return the answers that both revisions came of."""
        cases = []
        for answer in answers:
            own, other = (revisions.get(self._key("thread", item.name, item.draft.id)) for item in answer.threads)
            if own is not None and other is not None:
                key = self._key("result", answer.principle.id, own.id, other.id)
                cases.append(Case(key=key, revision=own, other_revision=other, **answer.__dict__))
        return cases

    def _measure(self, cases: Sequence[Case]) -> list[EvalResult]:
        def work(items: Sequence[Planned[Case]]) -> Iterator[Record]:
            for case, found in measure([item.work for item in items], self._constitution, self._engine, self._judge):
                yield EvalResult(
                    key=case.key,
                    prompt=case.prompt.id,
                    messages=case.prompt.messages,
                    kind=case.prompt.kind,
                    category=case.principle.id,
                    candidate=case.revision.text,
                    parent=case.other_revision.text,
                    wins=found.wins,
                    scores=found.scores,
                    provenance=self._provenance(self._config.seed, {}),
                )

        # A pair is seven questions, so a few of them keep the model busy, and a test that is stopped loses less.
        window = max(1, self._config.window // 4)
        self._fulfil("results", [Planned(case.key, case) for case in cases], work, unit="pairs", window=window)
        records = self._journals["results"].records
        return of_type([records[case.key] for case in cases], EvalResult)

    def _take(self, name: str, asks: dict[str, Ask], sampling: Sampling, cls: type[R]) -> dict[str, R]:
        """Ask what the journal still owes; return the texts that are fit for use, by the keys of their asks."""
        # One thread is asked for several things, so the stage is a part of a record's key.
        plan = {key: Planned(short([name, key]), ask) for key, ask in asks.items()}

        def work(items: Sequence[Planned[Ask]]) -> Iterator[Record]:
            asked = {item.key: item.work for item in items}
            requests = [
                GenerateRequest(
                    id=item.key,
                    prompt=item.work.dialogue,
                    seeds=(seed_from(self._config.seed, item.key),),
                    sampling=replace(sampling, stop=item.work.stop),
                    shared=item.work.shared,
                )
                for item in items
            ]
            for result in self._engine.generate(requests):
                yield self._record(name, asked[result.id], sampling, result)

        self._fulfil(name, list(plan.values()), work, unit="texts", window=self._config.window)
        records = self._journals[name].records
        return {key: record for key, item in plan.items() if isinstance(record := records[item.key], cls)}

    def _fulfil(
        self,
        name: str,
        plan: Sequence[Planned[Any]],
        work: Callable[[Sequence[Planned[Any]]], Iterator[Record]],
        *,
        unit: str,
        window: int,
    ) -> None:
        journal = self._journals[name]
        done = sum(item.key in journal for item in plan)
        if done == len(plan):
            return
        with progress(name, len(plan), unit, done=done) as bar:
            fulfil(plan, journal, work, window=window, on_record=lambda record: bar.advance())

    def _record(self, name: str, ask: Ask, sampling: Sampling, result: Generated | Failure) -> Record:
        if isinstance(result, Failure):
            return Dropped(key=result.id, stage=name, prompt=ask.prompt.id, reason=result.reason, text=result.message)
        completion = result.completions[0]
        text = completion.text.strip()
        if completion.finish_reason == "length":
            text = to_last_sentence(text) or text
        if not text:
            return Dropped(key=result.id, stage=name, prompt=ask.prompt.id, reason="empty", text=completion.text)
        provenance = self._provenance(seed_from(self._config.seed, result.id), asdict(sampling))
        return ask.record(Text(result.id, text, completion.finish_reason, provenance))

    def _provenance(self, seed: int, sampling: dict[str, Any]) -> Provenance:
        return Provenance(
            engine=self._engine.name,
            model=self._engine.model,
            seed=seed,
            sampling=sampling,
            constitution=self._constitution.digest,
        )

    def _key(self, stage: str, *parts: str | int) -> str:
        return short([stage, *parts, self._config.seed, self._engine.name, self._engine.model])
