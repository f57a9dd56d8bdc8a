"""Rewards as a list of small entries. They stand apart from what computes them, so that planning a run loads no torch.

rewards:
  - {kind: model, path: runs/reward/model}
  - {kind: model, path: runs/two/model, head: helpful, weight: 0.5}
  - {kind: checker, rule: "max_words:80", weight: 0.5}
  - {kind: model, path: runs/other/model, weight: 0, name: held_out}     # read, never trained on
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from cai.config import Config
from cai.constitution.checkers import find_checker
from cai.engines.server import ServerConfig


class Entry(Config):
    """What every reward has."""

    name: str | None = Field(None, pattern=r"^[a-z][a-z0-9_]*$")
    """What metrics call it; None is its head, or its kind."""
    weight: float = 1.0
    """Its factor in the sum. With 0 it is read and logged and changes nothing, which makes it a held-out measure."""


class Asked(NamedTuple):
    """A preference model, and what of it is read."""

    path: Path
    head: str | None = None
    principle: str | None = None


class ScoredEntry(Entry):
    """What rewards by preference models have."""

    principle: str | None = Field(None, pattern=r"\S")
    """The text that all answers are judged by, for models that are told one (`RewardConfig.principle_conditioned`)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """``bfloat16`` is faster and rounds scores to two or three digits. Adapters are read in the policy's precision."""

    @property
    def asked(self) -> list[Asked]:
        """The preference models that are read."""
        raise NotImplementedError


class ModelReward(ScoredEntry):
    """The score of a preference model."""

    kind: Literal["model"]
    path: Path
    """Its folder. In PPO with `lora` also that of its adapter, if that was trained over the model that the policy
    starts from: it is then held over the policy's own base."""
    head: str | None = None
    """Which of its scores, where it has several (`RewardConfig.heads`)."""

    @property
    def asked(self) -> list[Asked]:
        """The model."""
        return [Asked(self.path, self.head, self.principle)]


class EnsembleReward(ScoredEntry):
    """The scores of several preference models, or of several heads of one, as one.

    A policy must then fool all (Coste et al. 2023, arXiv 2310.02743).
    """

    kind: Literal["ensemble"]
    paths: list[Path] = Field(min_length=1)
    """Their folders, or adapters, as of a single one."""
    heads: list[str] = Field(default_factory=list)
    """Which scores of each, where they have several."""
    combine: Literal["mean", "min", "mean_minus_std"] = "mean"
    """``min`` is the paper's worst case. ``mean_minus_std`` takes `k` standard deviations off; the paper's
    uncertainty-weighted form takes variances."""
    k: float = Field(1.0, ge=0.0)
    """Standard deviations (of all members, divided by their number)."""

    @property
    def asked(self) -> list[Asked]:
        """The members: each head of each model."""
        heads = self.heads or (None,)
        return [Asked(path, head, self.principle) for path in self.paths for head in heads]

    @model_validator(mode="after")
    def _is_several(self) -> Self:
        if len(self.asked) < 2:
            raise ValueError("an ensemble has at least 2 members; give more 'paths', or several 'heads'")
        return self


class CheckerReward(Entry):
    """1 where an answer passes a program's rule (`cai.constitution.checkers`), else 0; no verdict is no reward."""

    kind: Literal["checker"]
    rule: str
    """Name and argument: ``max_words:80``."""

    @field_validator("rule")
    @classmethod
    def _is_known(cls, rule: str) -> str:
        find_checker(rule)
        return rule


class FunctionReward(Entry):
    """A Python function of (prompts, answers) that returns a number or None for each answer."""

    kind: Literal["function"]
    function: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """``module:function``; modules are looked for in the working folder, too."""


class HttpReward(Entry):
    """A server. The form is OpenRLHF's (`--reward.remote_url`, `serve_rm`), with the dialogues beside the texts.

    Sent is ``{"query": [...], "prompts": [...], "labels": [null, ...], "messages": [...]}``, where a query is the text
    of prompt and answer together; expected back is ``{"rewards": [...]}``: a number or null for each query.
    """

    kind: Literal["http"]
    url: str
    """``http://127.0.0.1:5000/get_reward``"""
    tokenizer: str | None = None
    """Folder or id of the server's tokenizer, whose chat template makes the texts. None joins the turns as
    hh-rlhf does (``\\n\\nHuman: …\\n\\nAssistant: …``)."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key."""
    batch: int = Field(16, ge=1)
    """Answers per call."""
    concurrency: int = Field(8, ge=1, le=1024)
    """Calls under way at once, per process."""
    timeout: float = Field(60.0, gt=0)
    """Seconds that a call may take; OpenRLHF: 180."""
    retries: int = Field(3, ge=0, le=100)
    """How often a call is made again after a fault that may pass."""

    @model_validator(mode="after")
    def _is_a_server(self) -> Self:
        if not re.fullmatch(r"https?://[^/?#]+(/[^?#]*)?", self.url):
            raise ValueError("url is not an address; write it like http://127.0.0.1:5000/get_reward")
        self.server()
        return self

    def server(self) -> ServerConfig:
        """Return how the server is asked; the path of the call is `endpoint`."""
        return ServerConfig(
            base_url=self.url.rpartition("/")[0] if self.endpoint else self.url,
            api_key_env=self.api_key_env,
            concurrency=self.concurrency,
            timeout=self.timeout,
            retries=self.retries,
        )

    @property
    def endpoint(self) -> str:
        """The last part of the address."""
        return self.url.split("://")[1].partition("/")[2].rpartition("/")[2]


def _kind(given: Any) -> Any:
    return given.get("kind") if isinstance(given, dict) else getattr(given, "kind", None)


RewardEntry = Annotated[
    Annotated[ModelReward, Tag("model")]
    | Annotated[EnsembleReward, Tag("ensemble")]
    | Annotated[CheckerReward, Tag("checker")]
    | Annotated[FunctionReward, Tag("function")]
    | Annotated[HttpReward, Tag("http")],
    Discriminator(
        _kind,
        custom_error_type="kind",
        custom_error_message="'kind' is none of model, ensemble, checker, function, http; give one of them",
    ),
]
"""Any of them, by `kind`."""


def names_of(entries: Sequence[Entry]) -> list[str]:
    """Return what metrics call each entry: its name, head or kind; a second of one kind is ``model_2``.

    >>> names_of([CheckerReward(kind="checker", rule="json"), CheckerReward(kind="checker", rule="not_empty")])
    ['checker', 'checker_2']
    """
    seen: dict[str, int] = {}
    names = []
    for entry in entries:
        name = entry.name or getattr(entry, "head", None) or str(entry.kind)  # type: ignore[attr-defined]
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return names


def check_sum(entries: Sequence[Entry]) -> None:
    """Raise ValueError for a list that can't be trained on, or whose metrics would carry one name twice."""
    if entries and not any(entry.weight for entry in entries):
        raise ValueError("every reward has weight 0; give one that is trained on another weight")
    if not math.isfinite(sum(abs(entry.weight) for entry in entries)):
        raise ValueError("the weights are too large to be added")
    given = [entry.name for entry in entries if entry.name]
    if twice := sorted({name for name in given if given.count(name) > 1}):
        raise ValueError(f"two rewards are called {twice[0]!r}; give them names of their own")


def folders_of(entries: Sequence[Entry]) -> list[Path]:
    """Return the preference models that the entries name."""
    found = [asked.path for entry in entries if isinstance(entry, ScoredEntry) for asked in entry.asked]
    return list(dict.fromkeys(found))
