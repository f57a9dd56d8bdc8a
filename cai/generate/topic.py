"""Which category a prompt belongs to: as a model sees it, or by the words of prompts whose category is known."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from cai.engines.base import Engine, Scored, ScoreRequest
from cai.generate.near import plain

Shares = dict[str, float]
"""A probability per category."""

HEAD = "Messages about {topic}:\n\n-"
"""What the engine goes on with a text from."""

TEMPERATURE = 4.0
"""Divides the logits: the words of a text are less independent than a sum of their log-probabilities takes them for."""


class WordTopics:
    """Naive Bayes over words, with one added to each count: quick, and no model is asked."""

    def __init__(self, known: Mapping[str, Sequence[str]]) -> None:
        """Learn from the texts of each category."""
        self._counts = {
            name: Counter(word for text in texts for word in plain(text).split()) for name, texts in known.items()
        }
        self._totals = {name: counts.total() for name, counts in self._counts.items()}
        self._vocabulary = len({word for counts in self._counts.values() for word in counts})

    def shares(self, text: str) -> Shares:
        """Return how probable each category is, all alike beforehand; words that no category has don't count."""
        words = [word for word in plain(text).split() if any(word in counts for counts in self._counts.values())]
        logits = {
            name: sum(math.log((counts[word] + 1) / (self._totals[name] + self._vocabulary)) for word in words)
            for name, counts in self._counts.items()
        }
        return _softmax(logits)


def engine_shares(engine: Engine, texts: Sequence[str], names: Sequence[str]) -> Iterator[Shares | None]:
    """Yield for each text how probable each category is as its source; None where the engine can't say.

    By Bayes' rule, all categories alike beforehand, that is how likely the engine finds the text under a heading with
    the category's name. A small model tells categories far better so than by being asked for the name.
    """
    candidates = tuple(f" {' '.join(text.split())}" for text in texts)
    requests = [
        ScoreRequest(id=name, prompt=HEAD.replace("{topic}", name.replace("_", " ")), candidates=candidates)
        for name in names
    ]
    found = {result.id: result for result in engine.score(requests)} if texts else {}
    scored = {name: result.scores for name, result in found.items() if isinstance(result, Scored)}
    for number in range(len(texts)):
        if len(scored) < len(names):
            yield None
        else:
            yield _softmax({name: scored[name][number].total / TEMPERATURE for name in names})


def _softmax(logits: Shares) -> Shares:
    most = max(logits.values())
    weights = {name: math.exp(value - most) for name, value in logits.items()}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}
