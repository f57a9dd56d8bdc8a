"""Drafts → critiques → revisions, journalled record by record.

Prompts are worked in windows, and each window goes through all rounds before the next begins, so processes never wait
for each other and a run that was cut off owes at most one window's step. Every round draws its principle afresh.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Self, TypeVar

from cai.constitution import Constitution, Principle, check_tags, draw, draw_balanced, load_constitution
from cai.engines.base import Engine, Failure, Generated, GenerateRequest, Sampling
from cai.engines.build import build_engine
from cai.engines.spending import Spending
from cai.generate.config import GenerateConfig
from cai.generate.finish import JOURNALS, finish
from cai.generate.form import Asked, form_of
from cai.generate.plan import Job, jobs
from cai.generate.quality import Candidate, fault
from cai.generate.thinking import cut, split_thinking
from cai.processes import is_main, rank, wait_for_all, world
from cai.progress import progress
from cai.records.inputs import check_unchanged, file_hashes, hold_inputs
from cai.records.journal import Journal, rank_path
from cai.records.loaders import PromptSet
from cai.records.resume import Planned, fulfil
from cai.records.schema import Critique, Draft, Dropped, Prompt, Provenance, Record, Revision, short
from cai.records.shard import Shard, own_folder, share
from cai.records.trim import to_last_sentence
from cai.stopping import stoppable
from cai.storage import seed_from
from cai.types import FinishReason

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Chain:
    """An answer on its way through the rounds: `id` names the record that it stands in now."""

    prompt: Prompt
    id: str
    text: str


@dataclass(frozen=True)
class Question:
    """What one step asks an engine for one chain."""

    chain: Chain
    asked: Asked
    principle: str = ""
    parent: str = ""
    """Id of the record that the answer follows from."""
    critique: str = ""
    """The critique that a revision is to follow."""
    sample: int = 0


@dataclass(frozen=True)
class Answer:
    """What came back, and the fields that every record of it has."""

    key: str
    text: str
    thinking: str
    finish_reason: FinishReason
    provenance: Provenance


@dataclass(frozen=True)
class Step:
    """One step of a window: which journal, which sampling, and how an answer becomes a record."""

    name: Literal["draft", "critique", "revision"]
    journal: Journal
    sampling: Sampling
    record: Callable[[Question, Answer], Record]


def run_generate(config: GenerateConfig) -> None:
    """Make drafts, critiques and revisions of a set of prompts, and the chat rows to finetune on.

    Writes drafts.jsonl, critiques.jsonl and revisions.jsonl (journals), sft.jsonl (rows with `messages`),
    left_out.jsonl (rows that repeat others) and result.json to `config.out`, or for a shard to its folder there.
    Raises InputError for unusable inputs, before the model is loaded, and KeyboardInterrupt after Ctrl-C, when what was
    under way is done.
    """
    config = in_own_folder(config)
    constitution = load_constitution(config.constitution)
    check_tags(constitution, tuple(config.tags), config.constitution)
    prompts = read_prompts(config)
    hashes = file_hashes(config.prompts)
    engine = build_engine(config.engine)
    made_by = {"engine": engine.name, "model": engine.model, "constitution": constitution.digest, "prompts": hashes}
    hold_inputs(config.out, {**config.making, **made_by})
    with stoppable(), Pipeline(config, constitution, engine) as pipeline:
        pipeline.run(prompts)
    wait_for_all()
    if is_main():
        check_unchanged(config.prompts, hashes)
        finish(config, prompts)


def in_own_folder(config: GenerateConfig) -> GenerateConfig:
    """Return the config with the folder that is really written to: a shard's lies in that of the whole."""
    return config.model_copy(update={"out": own_folder(config.out, config.shard)})


def read_prompts(config: GenerateConfig) -> PromptSet:
    """Read the prompts, and with ``keep_going`` write what is wrong with the others to rejected.jsonl."""
    # Every process reads them; one writes what it rejects.
    rejected = config.out / rank_path(Path(), "rejected", rank()) if config.keep_going else None
    return PromptSet.load(config.prompts, held_out=config.held_out, rejected=rejected)


class Pipeline:
    """One process's share of the stage."""

    def __init__(self, config: GenerateConfig, constitution: Constitution, engine: Engine) -> None:
        """Open this process's journals."""
        self._config, self._constitution, self._engine = config, constitution, engine
        self._form = form_of(config.format, constitution, engine)
        self._spending = Spending(config.budget, config.out)
        self._journals = {name: Journal(rank_path(config.out, name, rank())) for name in JOURNALS}

    def __enter__(self) -> Self:
        """Return itself: the journals are open since construction."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the journals."""
        self._spending.note()
        for journal in self._journals.values():
            journal.close()

    def run(self, prompts: PromptSet) -> None:
        """Take every prompt of this process's windows through all rounds."""
        config = self._config
        shard = Shard.of_text(config.shard) if config.shard else None

        def own() -> Iterator[Job]:
            return share(jobs(config, prompts.counts), shard, rank=rank(), world=world())

        total = sum(job.texts(critique=config.critique) for job in own())
        done = sum(len(journal.records) for journal in self._journals.values())
        with progress("generate", total, "texts", done=done, quiet=not is_main()) as bar:
            self._bar = bar
            for job in own():
                chains = self._draft(prompts.part(job.kind, job.start, job.stop), job.samples)
                for number in range(1, job.rounds + 1):
                    chains = self._round(chains, number)
                self._spending.note()

    def _count(self, record: Record) -> None:
        self._bar.advance(1, self._spending.tally.count(record.reason if isinstance(record, Dropped) else None))

    def _sampling(self, tokens: int | None = None) -> Sampling:
        """Return how a step samples: at most so many tokens, and those for thinking."""
        config = self._config
        most = (tokens or config.sampling.max_new_tokens) + config.thinking.tokens
        return replace(config.sampling.to_sampling(), max_new_tokens=most)

    def _draft(self, prompts: Sequence[Prompt], samples: int) -> list[Chain]:
        step = Step("draft", self._journals["drafts"], self._sampling(), _draft_record)
        questions = [
            Question(Chain(prompt, prompt.id, ""), self._form.draft(prompt.messages), parent=prompt.id, sample=sample)
            for prompt in prompts
            for sample in range(samples)
        ]
        made = self._take(step, questions, Draft, number=0)
        return [Chain(question.chain.prompt, draft.id, draft.text) for question, draft in made]

    def _round(self, chains: Sequence[Chain], number: int) -> list[Chain]:
        """Return the chains after one round; a chain whose critique or revision was dropped stays as it was."""
        questions = self._criticised(chains, number) if self._config.critique else self._at_once(chains, number)
        step = Step(
            "revision",
            self._journals["revisions"],
            self._sampling(),
            lambda question, answer: Revision(
                prompt=question.chain.prompt.id,
                critique=question.parent,
                round=number,
                principle=question.principle,
                **answer.__dict__,
            ),
        )
        made = self._take(step, questions, Revision, number=number)
        revised = {question.chain.id: replace(question.chain, id=new.id, text=new.text) for question, new in made}
        return [revised.get(chain.id, chain) for chain in chains]

    def _criticised(self, chains: Sequence[Chain], number: int) -> list[Question]:
        """Criticise each chain's answer; return what is then asked for its revision."""
        step = Step(
            "critique",
            self._journals["critiques"],
            self._sampling(self._config.critique_tokens),
            lambda question, answer: Critique(
                prompt=question.chain.prompt.id,
                answer=question.chain.id,
                round=number,
                principle=question.principle,
                **answer.__dict__,
            ),
        )
        questions = []
        for chain, principle in zip(chains, self._drawn(chains, number), strict=True):
            asked = self._form.critique(principle, chain.prompt.messages, chain.text)
            questions.append(Question(chain, asked, principle=principle.id, parent=chain.id))
        return [
            self._revision_question(question.chain, self._constitution[critique.principle], critique)
            for question, critique in self._take(step, questions, Critique, number=number)
        ]

    def _at_once(self, chains: Sequence[Chain], number: int) -> list[Question]:
        drawn = self._drawn(chains, number)
        return [self._revision_question(chain, principle, None) for chain, principle in zip(chains, drawn, strict=True)]

    def _revision_question(self, chain: Chain, principle: Principle, critique: Critique | None) -> Question:
        text = critique.text if critique else None
        return Question(
            chain,
            self._form.revision(principle, chain.prompt.messages, chain.text, text),
            principle=principle.id,
            parent=critique.id if critique else chain.id,
            critique=text or "",
        )

    def _drawn(self, chains: Sequence[Chain], number: int) -> list[Principle]:
        """Return a principle for each chain, drawn afresh in every round."""
        tags = tuple(self._config.tags)
        if self._config.draw == "balanced" and chains:
            seed = seed_from(self._config.seed, "principles", chains[0].id, number)
            return draw_balanced(self._constitution, seed, len(chains), tags=tags)
        return [
            draw(self._constitution, seed_from(self._config.seed, "principle", chain.id, number), tags=tags)
            for chain in chains
        ]

    def _take(
        self, step: Step, questions: Sequence[Question], cls: type[R], *, number: int
    ) -> list[tuple[Question, R]]:
        """Ask what the journal still owes; return each question that has an answer fit for use, with its record."""
        plan = [Planned(self._key(step, question, number), question) for question in questions]

        def work(items: Sequence[Planned[Question]]) -> Iterator[Record]:
            asked = {item.key: item.work for item in items}
            for result in self._spending.answers(self._engine, [self._request(step, item) for item in items]):
                yield self._record(step, asked[result.id], result)

        fulfil(plan, step.journal, work, window=max(1, len(plan)), on_record=self._count)
        found = ((item.work, step.journal.records[item.key]) for item in plan)
        return [(question, record) for question, record in found if isinstance(record, cls)]

    def _key(self, step: Step, question: Question, number: int) -> str:
        conditions = [self._config.seed, self._engine.name, self._engine.model, self._constitution.digest]
        asked = [question.parent, question.sample, number, question.principle, asdict(step.sampling)]
        if self._form.name != "chat":
            conditions.append(self._form.name)
        return short([step.name, *asked, *conditions])

    def _request(self, step: Step, item: Planned[Question]) -> GenerateRequest:
        asked = item.work.asked
        return GenerateRequest(
            id=item.key,
            prompt=asked.prompt,
            seeds=(seed_from(self._config.seed, item.key),),
            # What begins the next request may well stand in a thinking part: then the answer is cut afterwards.
            sampling=step.sampling if self._config.thinking.tokens else replace(step.sampling, stop=asked.stop),
            shared=asked.shared,
        )

    def _record(self, step: Step, question: Question, result: Generated | Failure) -> Record:
        prompt = question.chain.prompt
        if isinstance(result, Failure):
            return Dropped(key=result.id, stage=step.name, prompt=prompt.id, reason=result.reason, text=result.message)
        completion = result.completions[0]
        cut_off = completion.finish_reason == "length"
        thinking, answer = split_thinking(completion.text, self._config.thinking)
        if answer is None:
            unended = "the thinking never ended"
            return Dropped(key=result.id, stage=step.name, prompt=prompt.id, reason=unended, text=completion.text)
        text = cut(answer, question.asked.stop)
        checked = Candidate(
            text=text,
            finish_reason=completion.finish_reason,
            stage=step.name,
            kind=prompt.kind,
            dialogue=prompt.messages,
            before=question.chain.text if step.name == "revision" else "",
            critique=question.critique,
        )
        if cut_off:
            text = to_last_sentence(text) or ("" if checked.trained_on else text)
        reason = fault(replace(checked, text=text))
        if reason is not None:
            reason = "cut off in its first sentence" if cut_off and not text else reason
            return Dropped(key=result.id, stage=step.name, prompt=prompt.id, reason=reason, text=completion.text)
        provenance = Provenance(
            engine=self._engine.name,
            model=self._engine.model,
            seed=seed_from(self._config.seed, result.id),
            sampling=asdict(step.sampling),
            constitution=self._constitution.digest,
        )
        return step.record(question, Answer(result.id, text, thinking, completion.finish_reason, provenance))


def _draft_record(question: Question, answer: Answer) -> Draft:
    return Draft(prompt=question.chain.prompt.id, sample=question.sample, **answer.__dict__)
