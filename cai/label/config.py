"""The settings of the labelling stage."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cai.config import Config
from cai.engines.build import EngineConfig, SamplingConfig
from cai.judges.build import JudgeConfig
from cai.label.floor import FloorConfig
from cai.records.config import PromptsConfig

PairsKind = Literal["samples", "models", "revisions", "best_of", "contrast"]

_OWN: dict[str, PairsKind] = {"other": "models", "run": "revisions", "n": "best_of", "certainty": "contrast"}
"""Settings that one kind of pairs has alone."""


class PairsConfig(Config):
    """Which two answers to a prompt are compared."""

    kind: PairsKind = "samples"
    """``samples``: two of one model; ``models``: one of each of two; ``revisions``: a draft and its last revision;
    ``best_of``: the judge's best and worst of several; ``contrast``: one told a principle and one told its opposite."""
    other: EngineConfig | None = None
    """``models``: who gives the second answer."""
    run: Path | None = None
    """``revisions``: the folder of a generate stage."""
    n: int = Field(4, ge=3)
    """``best_of``: answers sampled per prompt."""
    certainty: float | None = Field(None, gt=0.5, le=1.0)
    """``contrast``: the probability that the answer told the principle is the better one; none: the judge is asked."""

    @model_validator(mode="after")
    def _own_settings(self) -> Self:
        for name, kind in _OWN.items():
            given = getattr(self, name) != type(self).model_fields[name].default
            if given and self.kind != kind:
                raise ValueError(f"{name!r} is of pairs of the kind {kind!r}, not {self.kind!r}; remove it")
            if name in ("other", "run") and self.kind == kind and not given:
                raise ValueError(f"pairs of the kind {kind!r} need {name!r}; add it")
        return self


class LabelConfig(PromptsConfig):
    """Settings of the labelling stage."""

    prompts: list[Path]
    """Files of prompts; for ``pairs.kind: revisions``, those that the run was given."""
    constitution: str = "harmless"
    """A file, or the name of a shipped constitution."""
    engine: EngineConfig = EngineConfig()
    """The model whose answers are compared: the finetuned one."""
    pairs: PairsConfig = PairsConfig()
    """Which two answers to a prompt are compared."""
    judge: JudgeConfig = JudgeConfig()
    out: Path
    seed: int = 0
    tags: list[str] = Field(default_factory=list)
    """Only principles with one of these tags are drawn; none: all."""
    floor: FloorConfig | None = None
    """What the judge must reach on pairs that people labelled; below it the stage ends before it labels."""
    principles_per_label: int = Field(1, ge=1)
    """Principles drawn per pair; several are averaged."""
    learned_weights: Path | None = None
    """A file of weights learned from people's labels (`cai.label.learned`), in place of the constitution's."""
    sampling: SamplingConfig = SamplingConfig()

    @property
    def making(self) -> dict[str, Any]:
        """The settings that decide what a label says or which there are; models and files are told by their content."""
        judged = {"seed", "tags", "principles_per_label", "sampling", "window"}
        pairs = self.pairs.model_dump(mode="json", include={"kind", "n", "certainty"})
        return {**self.model_dump(mode="json", include=judged), "pairs": pairs, "judge": self.judge.settings}

    @model_validator(mode="after")
    def _no_judge_no_settings_of_judging(self) -> Self:
        if self.pairs.certainty is not None and (self.floor or self.learned_weights or self.principles_per_label > 1):
            raise ValueError(
                "with 'pairs.certainty' no judge is asked; remove it, or remove 'floor', 'learned_weights' and "
                "'principles_per_label'"
            )
        return self
