"""Pairs of answers and their labels, journalled record by record."""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai.constitution import Constitution, Principle, check_tags, draw_distinct, load_constitution
from cai.engines.build import build_engine
from cai.engines.spending import Spending
from cai.errors import InputError, Problem
from cai.judges.base import Comparison, Judge, Verdict
from cai.judges.build import build_judge
from cai.judges.measured import measured
from cai.label.aggregate import Vote, label_of
from cai.label.best_of import Two, best_and_worst
from cai.label.config import LabelConfig
from cai.label.construction import ByConstruction
from cai.label.figures import Figures
from cai.label.floor import check_floor
from cai.label.respond import Responses
from cai.label.sources import Answers, build_source
from cai.processes import is_main, rank, wait_for_all, world
from cai.progress import progress
from cai.records.export import Row, preference_rows, write_rows
from cai.records.inputs import check_unchanged, file_hashes, hold_inputs, noted_inputs
from cai.records.journal import Journal, rank_path, read_ranks
from cai.records.loaders import PromptSet
from cai.records.pairs import load_labelled
from cai.records.resume import Planned, fulfil
from cai.records.schema import Dropped, Preference, Prompt, Provenance, Record, short
from cai.records.shard import Shard, own_folder, share
from cai.stopping import stoppable
from cai.storage import atomic_write_json, seed_from
from cai.windows import windows

if TYPE_CHECKING:
    from cai.label.learned import LearnedWeights

JOURNALS = ("responses", "preferences")


@dataclass(frozen=True)
class Jobs:
    """The windows of prompts that this process works on; they can be gone through more than once."""

    prompts: PromptSet
    window: int
    shard: Shard | None = None

    def __iter__(self) -> Iterator[tuple[Prompt, ...]]:
        """Yield the windows in their order."""
        return share(windows(self.prompts, self.window), self.shard, rank=rank(), world=world())


def run_label(config: LabelConfig) -> None:
    """Take two answers per prompt, judge each pair, and write soft labels.

    Writes responses.jsonl and preferences.jsonl (journals), pairs.jsonl (rows with `prompt`, `chosen`, `rejected`,
    `chosen_prob`), summary.json and result.json to `config.out`, or for a shard to its folder there. Raises InputError
    for unusable inputs, before the model is loaded, BudgetError when the budget is spent, and KeyboardInterrupt after
    Ctrl-C, when what was under way is done.
    """
    config = config.model_copy(update={"out": own_folder(config.out, config.shard)})
    constitution = load_constitution(config.constitution)
    check_tags(constitution, tuple(config.tags), config.constitution)
    hashes = file_hashes(config.prompts)
    # Every process reads them; one writes what it rejects.
    rejected = config.out / rank_path(Path(), "rejected", rank()) if config.keep_going else None
    prompts = PromptSet.load(config.prompts, held_out=config.held_out, rejected=rejected)
    weights = _weights(config, constitution)
    made_from = {"constitution": constitution.digest, "prompts": hashes, "weights": weights.digest if weights else None}
    _hold(config, made_from, models=None)
    if config.floor is not None:
        load_labelled(config.floor.on)  # a bad file is told now, not after an hour of sampling
    source = build_source(config, constitution, prompts)
    jobs = Jobs(prompts, config.window, Shard.of_text(config.shard) if config.shard else None)
    spending = Spending(config.budget, config.out)
    with stoppable(), spending, Responses(config, source, spending) as responses:
        for engine in source.engines:
            responses.sample(build_engine(engine), jobs)
            gc.collect()
        judge = _judge(config, constitution, prompts, spending)
        if config.floor is not None:
            check_floor(
                config.floor,
                judge,
                constitution,
                principles_per_pair=config.principles_per_label,
                tags=tuple(config.tags),
                seed=config.seed,
                out=config.out,
            )
        _hold(config, made_from, models=[*responses.writers, (judge.name, judge.model)])
        _label(Labeller(config, constitution, judge, weights), responses, jobs, spending)
    wait_for_all()
    if is_main():
        check_unchanged(config.prompts, hashes)
        finish(config, prompts, judge=(judge.name, judge.model), constitution=constitution.digest)


def _hold(config: LabelConfig, made_from: dict[str, Any], *, models: Sequence[tuple[str, str]] | None) -> None:
    """Note what the labels are made from and with; raises InputError where there are others.

    Without `models`, as long as they are not loaded, the rest is compared with what is noted, and nothing is written.
    """
    noted = noted_inputs(config.out)
    inputs = {**config.making, **made_from}
    if models is not None:
        hold_inputs(config.out, {**inputs, "models": [list(each) for each in models]})
    elif noted is not None:
        hold_inputs(config.out, {**inputs, "models": noted.get("models")})


def _weights(config: LabelConfig, constitution: Constitution) -> "LearnedWeights | None":
    """Return the learned weights, if any; raises InputError for those of another constitution."""
    if config.learned_weights is None:
        return None
    from cai.label.learned import load_weights  # brings scipy, which few runs need

    weights = load_weights(config.learned_weights)
    if weights.weights and not any(principle.id in weights.weights for principle in constitution.principles):
        problem = f"no weight for any principle of {config.constitution!r}"
        fix = "give weights that were learned under this constitution"
        raise InputError(Problem(str(config.learned_weights), 0, 0, problem, fix))
    return weights


def _judge(config: LabelConfig, constitution: Constitution, prompts: PromptSet, spending: Spending) -> Judge:
    if config.pairs.certainty is not None:
        return ByConstruction(config.pairs.certainty)
    first = list(islice(prompts, config.judge.contrasts))  # more is not learned from
    return build_judge(
        config.judge, constitution, prompts=first, folder=config.out, seed=config.seed, spending=spending
    )


def _label(labeller: "Labeller", responses: Responses, jobs: Jobs, spending: Spending) -> None:
    total = sum(len(responses.answers(window)) for window in jobs)
    with (
        Journal(rank_path(labeller.config.out, "preferences", rank())) as journal,
        progress("labels", total, "pairs", done=len(journal.records), quiet=not is_main()) as bar,
    ):

        def count(record: Record) -> None:
            bar.advance(1, spending.tally.count(record.reason if isinstance(record, Dropped) else None))

        for window in jobs:
            spending.check()  # not every judge asks an engine
            plan = [Planned(labeller.key(answers), answers) for answers in responses.answers(window)]
            fulfil(plan, journal, labeller.label, window=max(1, len(plan)), on_record=count)
            spending.note()


class Labeller:
    """Chooses pairs, asks the judge, and makes labels of its verdicts."""

    def __init__(
        self, config: LabelConfig, constitution: Constitution, judge: Judge, weights: "LearnedWeights | None"
    ) -> None:
        """Label with a judge; learned weights stand for the constitution's."""
        self.config = config
        self._constitution, self._judge, self._weights = constitution, judge, weights

    def key(self, answers: Answers) -> str:
        """Return the key of a label: what is compared, by whom and how."""
        config = self.config
        asked = [[answer.id for answer in answers.answers], config.pairs.kind, config.principles_per_label, config.tags]
        who = [self._judge.name, self._judge.model, config.judge.settings, self._constitution.digest]
        return short(["preference", *asked, config.seed, *who, self._weights.digest if self._weights else ""])

    def label(self, items: Sequence[Planned[Answers]]) -> Iterator[Record]:
        """Yield a preference for each item, or why there is none."""
        drawn = {item.key: self._principles(item) for item in items}
        pairs = dict(zip(drawn, self._pairs(items, drawn), strict=True))
        comparisons = [
            Comparison(
                id=f"{item.key}/{number}",
                prompt=item.work.prompt.messages,
                response_a=pair[0].text,
                response_b=pair[1].text,
                principle=principle,
            )
            for item in items
            if not isinstance(pair := pairs[item.key], str)
            for number, principle in enumerate(drawn[item.key])
        ]
        verdicts: dict[str, list[Verdict]] = {key: [] for key in drawn}
        for verdict in self._judge.compare(comparisons):
            verdicts[verdict.id.rpartition("/")[0]].append(verdict)
        for item in items:
            pair = pairs[item.key]
            if isinstance(pair, str):
                text = item.work.answers[0].text
                yield Dropped(key=item.key, stage="label", prompt=item.work.prompt.id, reason=pair, text=text)
            else:
                yield self._record(item, pair, drawn[item.key], verdicts[item.key])

    def _principles(self, item: Planned[Answers]) -> list[Principle]:
        """Return the principles that judge: the one that made the answers, if any, and drawn ones."""
        count = self.config.principles_per_label if self._judge.by_principle else 1
        seed = seed_from(self.config.seed, "label", item.key)
        drawn = draw_distinct(self._constitution, seed, count, tags=tuple(self.config.tags))
        own = item.work.principle
        return drawn if own is None else [own, *(each for each in drawn if each.id != own.id)][:count]

    def _pairs(self, items: Sequence[Planned[Answers]], drawn: dict[str, list[Principle]]) -> list[Two | str]:
        if self.config.pairs.kind == "best_of":
            return best_and_worst(self._judge, [(item.work, drawn[item.key][0]) for item in items])
        both = [(item.work.answers[0], item.work.answers[1]) for item in items]
        return ["equal answers" if a.text == b.text else (a, b) for a, b in both]

    def _record(
        self, item: Planned[Answers], pair: Two, principles: Sequence[Principle], verdicts: Sequence[Verdict]
    ) -> Record:
        prompt, (a, b), judge = item.work.prompt, pair, self._judge
        # Judges answer in any order; a verdict's number says which principle it was given under.
        verdicts = sorted(verdicts, key=lambda verdict: int(verdict.id.rpartition("/")[2]))
        votes = [Vote.of(verdict, principle) for verdict, principle in zip(verdicts, principles, strict=True)]
        label = label_of(votes, learned=self._weights)
        if label.prob_a is None:
            reason = f"the judge abstained: {label.reason}"
            return Dropped(key=item.key, stage="label", prompt=prompt.id, reason=reason, text=a.text)
        return Preference(
            key=item.key,
            prompt=prompt.id,
            messages=prompt.messages,
            response_a=a.text,
            response_b=b.text,
            prob_a=label.prob_a,
            spread=label.spread,
            judge=judge.name,
            principles=tuple(principle.id for principle in principles) if judge.by_principle else (),
            prob_a_by_order=verdicts[0].prob_a_by_order,
            kind=prompt.kind,
            category=prompt.category,
            answers=(a.id, b.id),
            provenance=Provenance(
                engine=a.provenance.engine,
                model=a.provenance.model,
                seed=self.config.seed,
                constitution=self._constitution.digest,
            ),
        )


def finish(config: LabelConfig, prompts: PromptSet, *, judge: tuple[str, str], constitution: str) -> None:
    """Write the rows and the figures from all processes' journals, and the settings, unless a run's stage has.

    `judge` is its name and its model's digest.
    """
    figures = Figures(config.pairs.kind, judge[0])
    for answer in read_ranks(config.out, "responses").values():
        figures.add(answer)
    records = read_ranks(config.out, "preferences")
    order: list[tuple[int, int, str]] = []
    for number, record in enumerate(records.values()):
        figures.add(record)
        stands = prompts.position(record.prompt) if isinstance(record, Preference) else None
        if stands is not None:
            order.append((stands.place, number, record.key))
    rows = (row for _, _, key in sorted(order) for row in _rows(records[key]))
    write_rows(config.out / "pairs.jsonl", rows)
    known = {each.data: str(each) for each in measured(*judge, constitution, contrasts=config.judge.contrasts)}
    about = {"agreement_with_people": known} if known else {}
    atomic_write_json(config.out / "summary.json", {**figures.result(), **about})
    if not (config.out / "config.json").exists():
        atomic_write_json(config.out / "config.json", config.to_plain())
    result: dict[str, Any] = {"counts": {"labels": figures.labels, "training_rows": len(order)}}
    if config.keep_going:
        result["rows"] = {"read": prompts.read, "repeated": prompts.repeated, "rejected": prompts.rejected}
    atomic_write_json(config.out / "result.json", result)


def _rows(record: Record) -> list[Row]:
    """Return the training row of a label, and how far its votes disagree."""
    if not isinstance(record, Preference):
        return []
    return [{**row, "spread": record.spread} for row in preference_rows([record])]
