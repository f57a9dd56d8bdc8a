"""The answers that are compared: sampled window by window, journalled as they come, read back from the journal."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Self

from cai.engines.base import Engine, Failure, Generated, GenerateRequest
from cai.engines.spending import Spending
from cai.label.config import LabelConfig
from cai.label.sources import Answers, Ask, Source
from cai.processes import is_main, rank
from cai.progress import progress
from cai.records.journal import Journal, rank_path
from cai.records.resume import Planned, fulfil
from cai.records.schema import Draft, Dropped, Prompt, Provenance, Record, short
from cai.records.trim import to_last_sentence
from cai.storage import seed_from


class Responses:
    """One process's answers."""

    def __init__(self, config: LabelConfig, source: Source, spending: Spending) -> None:
        """Open this process's journal; what the engines are asked is counted."""
        self._config, self._source, self._spending = config, source, spending
        self._journal = Journal(rank_path(config.out, "responses", rank()))
        self._writers: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        """Return itself: the journal is open since construction."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the journal."""
        self._journal.close()

    @property
    def writers(self) -> list[tuple[str, str]]:
        """Name and model of the engines that have answered, in the source's order."""
        return list(self._writers)

    def sample(self, engine: Engine, jobs: Iterable[Sequence[Prompt]]) -> None:
        """Sample what the source's next engine still owes; `jobs` can be gone through more than once."""
        number = len(self._writers)
        self._writers.append((engine.name, engine.model))
        engine = self._spending.metered(engine)
        total = done = 0
        for window in jobs:
            keys = [item.key for item in self._plan(window, number)]
            total, done = total + len(keys), done + sum(key in self._journal for key in keys)
        label = "responses" if len(self._source.engines) == 1 else f"responses of model {number + 1}"
        with progress(label, total, "answers", done=done, quiet=not is_main()) as bar:

            def count(record: Record) -> None:
                bar.advance(1, self._spending.tally.count(record.reason if isinstance(record, Dropped) else None))

            for window in jobs:
                plan = self._plan(window, number)
                fulfil(
                    plan,
                    self._journal,
                    lambda items: self._work(engine, items),
                    window=max(1, len(plan)),
                    on_record=count,
                )
                self._spending.note()

    def answers(self, window: Sequence[Prompt]) -> list[Answers]:
        """Return what is to be compared of a window, all of whose answers are sampled."""
        found: list[Answers] = []
        for prompt in window:
            records = [self._journal.records[self._key(ask)] for ask in self._source.asks(prompt)]
            found += self._source.answers(prompt, [record for record in records if isinstance(record, Draft)])
        return found

    def _plan(self, window: Sequence[Prompt], engine: int) -> list[Planned[Ask]]:
        asks = [ask for prompt in window for ask in self._source.asks(prompt) if ask.engine == engine]
        return [Planned(self._key(ask), ask) for ask in asks]

    def _key(self, ask: Ask) -> str:
        name, model = self._writers[ask.engine]
        sampling = asdict(self._config.sampling.to_sampling())
        told = [] if ask.dialogue == ask.prompt.messages else [[list(message) for message in ask.dialogue]]
        return short(["response", ask.prompt.id, ask.sample, self._config.seed, name, model, sampling, *told])

    def _work(self, engine: Engine, items: Sequence[Planned[Ask]]) -> Iterator[Record]:
        sampling = self._config.sampling.to_sampling()
        asked = {item.key: item.work for item in items}
        requests = [
            GenerateRequest(
                id=item.key,
                prompt=item.work.dialogue,
                seeds=(seed_from(self._config.seed, item.key),),
                sampling=sampling,
            )
            for item in items
        ]
        for result in engine.generate(requests):
            yield self._record(engine, asked[result.id], result)

    def _record(self, engine: Engine, ask: Ask, result: Generated | Failure) -> Record:
        prompt = ask.prompt.id
        if isinstance(result, Failure):
            return Dropped(key=result.id, stage="response", prompt=prompt, reason=result.reason, text=result.message)
        completion = result.completions[0]
        text = completion.text.strip()
        return Draft(
            key=result.id,
            prompt=prompt,
            sample=ask.sample,
            # Its end of turn is trained on, so it must be an end; an answer without a sentence stays as it is.
            text=(to_last_sentence(text) or text) if completion.finish_reason == "length" else text,
            finish_reason=completion.finish_reason,
            provenance=Provenance(
                engine=engine.name,
                model=engine.model,
                seed=seed_from(self._config.seed, result.id),
                sampling=asdict(self._config.sampling.to_sampling()),
            ),
        )
