"""Pairs of answers and their labels, journalled record by record."""

import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cai.constitution import Constitution, Principle, check_tags, draw_distinct, load_constitution
from cai.engines.build import build_engine
from cai.errors import InputError, Problem
from cai.judges.base import Comparison, Judge, Verdict
from cai.judges.build import build_judge
from cai.label.aggregate import Vote, flipped, label_of
from cai.label.best_of import Two, best_and_worst
from cai.label.config import LabelConfig
from cai.label.construction import ByConstruction
from cai.label.floor import check_floor
from cai.label.respond import Responses
from cai.label.sources import Answers, build_source
from cai.processes import is_main, rank, wait_for_all, world
from cai.progress import progress
from cai.records.export import preference_rows, write_rows
from cai.records.journal import Journal, of_type, rank_path, read_ranks
from cai.records.loaders import load_prompts
from cai.records.pairs import load_labelled
from cai.records.resume import Planned, fulfil
from cai.records.schema import Dropped, Preference, Prompt, Provenance, Record, short
from cai.storage import atomic_write_json, seed_from
from cai.windows import windows

if TYPE_CHECKING:
    from cai.label.learned import LearnedWeights


def run_label(config: LabelConfig) -> None:
    """Take two answers per prompt, judge each pair, and write soft labels.

    Writes responses.jsonl and preferences.jsonl (journals), pairs.jsonl (rows with `prompt`, `chosen`, `rejected`,
    `chosen_prob`), summary.json and result.json to `config.out`. Raises InputError before the model is loaded.
    """
    constitution = load_constitution(config.constitution)
    check_tags(constitution, tuple(config.tags), config.constitution)
    prompts = load_prompts(config.prompts)
    weights = _weights(config, constitution)
    if config.floor is not None:
        load_labelled(config.floor.on)  # a bad file is told now, not after an hour of sampling
    source = build_source(config, constitution, prompts)
    jobs = list(windows(prompts, config.window))[rank() :: world()]
    with Responses(config, source) as responses:
        for engine in source.engines:
            responses.sample(build_engine(engine), jobs)
            gc.collect()
        judge = _judge(config, constitution, prompts)
        if config.floor is not None:
            check_floor(config.floor, judge, constitution, seed=config.seed, out=config.out)
        _label(Labeller(config, constitution, judge, weights), responses, jobs)
    wait_for_all()
    if is_main():
        _finish(config, judge, prompts)


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


def _judge(config: LabelConfig, constitution: Constitution, prompts: Sequence[Prompt]) -> Judge:
    if config.pairs.certainty is not None:
        return ByConstruction(config.pairs.certainty)
    return build_judge(config.judge, constitution, prompts=prompts, folder=config.out, seed=config.seed)


def _label(labeller: "Labeller", responses: Responses, jobs: Sequence[Sequence[Prompt]]) -> None:
    total = sum(len(responses.answers(window)) for window in jobs)
    with (
        Journal(rank_path(labeller.config.out, "preferences", rank())) as journal,
        progress("labels", total, "pairs", done=len(journal.records), quiet=not is_main()) as bar,
    ):
        for window in jobs:
            plan = [Planned(labeller.key(answers), answers) for answers in responses.answers(window)]
            fulfil(plan, journal, labeller.label, window=max(1, len(plan)), on_record=lambda record: bar.advance())


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
            provenance=Provenance(
                engine=a.provenance.engine,
                model=a.provenance.model,
                seed=self.config.seed,
                constitution=self._constitution.digest,
            ),
        )


def _finish(config: LabelConfig, judge: Judge, prompts: Sequence[Prompt]) -> None:
    """Write the rows and the figures from all processes' journals, and the settings, unless a run's stage has."""
    records = list(read_ranks(config.out, "preferences").values())
    order = {prompt.id: index for index, prompt in enumerate(prompts)}
    labelled = sorted(of_type(records, Preference), key=lambda pair: order[pair.prompt])
    # No label is a tie, so that every pair has its row.
    both = zip(preference_rows(labelled), labelled, strict=True)
    rows = [{**row, "spread": pair.spread} for row, pair in both]
    write_rows(config.out / "pairs.jsonl", rows)
    dropped = of_type([*read_ranks(config.out, "responses").values(), *records], Dropped)
    atomic_write_json(config.out / "summary.json", label_summary(config, judge.name, labelled, dropped))
    if not (config.out / "config.json").exists():
        atomic_write_json(config.out / "config.json", config.to_plain())
    atomic_write_json(config.out / "result.json", {"counts": {"labels": len(labelled), "training_rows": len(rows)}})


def label_summary(
    config: LabelConfig, judge: str, labelled: Sequence[Preference], dropped: Sequence[Dropped]
) -> dict[str, Any]:
    """Return what a person wants to know of a labelling run: counts, drops by reason, how often the order decided."""
    flips = [flip for pair in labelled if (flip := flipped(pair.prob_a_by_order)) is not None]
    confidence = [max(pair.prob_a, 1 - pair.prob_a) for pair in labelled]
    spreads = [pair.spread for pair in labelled if pair.spread is not None]
    return {
        "pairs": config.pairs.kind,
        "judge": judge,
        "labels": len(labelled),
        "dropped": dict(sorted(Counter(f"{record.stage}: {record.reason}" for record in dropped).items())),
        "mean_confidence": _mean(confidence),
        "share_a": _mean([pair.prob_a > 0.5 for pair in labelled]),
        "position_flip_rate": _mean(flips),
        "mean_spread": _mean(spreads),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
