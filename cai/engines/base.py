"""What an inference engine is: an iterable of requests in, an iterator of results out, in any order.

Two verbs. **generate** continues a dialogue or a raw text; **score** says how likely given continuations are. Results
carry their request's id, and a failure is a result with a typed reason: one bad sample never ends a run.

Prompts are dialogues (rendered by the model's chat template, `cai.engines.render`) or raw text (transcripts for base
models). Many prompts of this work begin alike: few-shot examples, a constitution, one dialogue for many questions.
`shared` names that part, and engines that can compute it once.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from cai.types import Dialogue, FinishReason, Usage

FailureReason = Literal["too_long", "empty", "not_supported", "engine", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn. The defaults are the paper's: temperature 1, nothing cut off (Bai et al. 2022, 3.1)."""

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps the whole vocabulary."""
    max_new_tokens: int = 256
    min_new_tokens: int = 0
    """The end of turn can't be drawn before this many tokens."""
    stop: tuple[str, ...] = ()
    """Text ends before the first of these; the end-of-turn token always stops."""


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """Ask for one completion per seed of one prompt.

    `prefill` is the beginning of the answer, put in the model's mouth; the completion's text comes after it.
    """

    id: str
    prompt: Dialogue | str
    seeds: tuple[int, ...] = (0,)
    sampling: Sampling = field(default_factory=Sampling)
    prefill: str = ""
    shared: int = 0
    """How much of the prompt other requests begin with too: leading messages of a dialogue, leading characters of a
    text. A hint: it changes speed, never results."""
    logprobs: bool = False
    """Return the log-probability of each drawn token under the model at temperature 1, nothing cut off."""


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """Ask how likely each candidate is as the continuation of one prompt (after `prefill`, if any)."""

    id: str
    prompt: Dialogue | str
    candidates: tuple[str, ...]
    prefill: str = ""
    shared: int = 0
    end_of_turn: bool = False
    """Count the end-of-turn token after each candidate too: a whole answer, not the beginning of one."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One sampled answer. `token_ids` has the end-of-turn token when the model drew it; `text` never does."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[float, ...] | None = None
    """One per token of `token_ids`, in nats."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Log-probabilities of one candidate, in nats.

    >>> Score(logprobs=(-1.0, -3.0)).total, Score(logprobs=(-1.0, -3.0)).mean
    (-4.0, -2.0)
    """

    logprobs: tuple[float, ...]

    @property
    def total(self) -> float:
        """The log-probability of the whole candidate."""
        return sum(self.logprobs)

    @property
    def mean(self) -> float:
        """The average per token: comparable over candidates of different length."""
        return self.total / len(self.logprobs) if self.logprobs else 0.0


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a request has no answer: which boundary it crossed, in words that a person can act on."""

    id: str
    reason: FailureReason
    message: str


@dataclass(frozen=True, kw_only=True)
class Generated:
    """The completions of a request, in the order of its seeds."""

    id: str
    completions: tuple[Completion, ...]
    usage: Usage


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The scores of a request, in the order of its candidates."""

    id: str
    scores: tuple[Score, ...]
    usage: Usage


class Engine(Protocol):
    """Anything that samples and scores.

    The same requests in the same order give the same results: that, and windows of a fixed plan
    (`cai.records.resume`), is what makes a run that was cut off end like one that was not.
    """

    @property
    def name(self) -> str:
        """Which engine this is, for the records: ``transformers``, ``vllm``, …"""
        ...

    @property
    def model(self) -> str:
        """Which weights answer: a content digest or a revision, so that records stay true when a folder changes."""
        ...

    def generate(self, requests: Iterable[GenerateRequest]) -> Iterator[Generated | Failure]:
        """Yield one result per request, as each is finished."""
        ...

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Scored | Failure]:
        """Yield one result per request, as each is finished."""
        ...
