"""From a judge's config to a judge: one place that knows them all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from pydantic import Field, field_validator

from cai.config import Config
from cai.constitution import Constitution
from cai.engines.base import Engine
from cai.engines.build import EngineConfig, build_engine
from cai.engines.spending import Spending
from cai.errors import EngineError, InputError, Problem
from cai.judges.base import Judge
from cai.judges.contrastive import ContrastiveJudge
from cai.judges.contrasts import StateEngine, contrast_states, examples_of
from cai.judges.direction import Direction, DirectionJudge, middle_layers
from cai.judges.pairwise import PairwiseJudge
from cai.judges.pointwise import PointwiseJudge
from cai.judges.program import ProgramJudge
from cai.judges.sampled import SampledJudge
from cai.processes import is_main, wait_for_all
from cai.records.schema import Prompt
from cai.storage import atomic_write_json

JudgeKind = Literal["pairwise", "contrastive", "direction", "preference_model", "pointwise", "sampled", "program"]


class JudgeConfig(Config):
    """Which judge, and which model it asks."""

    kind: JudgeKind = "direction"
    """``pairwise`` is the paper's, for models of some billion parameters; ``direction`` serves small ones."""
    engine: EngineConfig = EngineConfig()
    """The feedback model; for ``preference_model``, its `model` is the preference model's folder."""
    head: str | None = None
    """``preference_model``: which of its scores judges, where it has several (harmless, helpful)."""
    temperature: float = Field(1.0, gt=0.0)
    """``pairwise``: divides the logits; ``sampled``: of the sampling."""
    thoughts: int = Field(0, ge=0)
    """``pairwise``: the most tokens of reasons written before the choice; 0 asks at once."""
    clamp: tuple[float, float] | None = None
    """``pairwise``: probabilities are kept between these; none: 0.4 and 0.6 after reasons, else 0 and 1."""
    scale: float = Field(0.1, gt=0.0)
    """``contrastive``: nats per token that make a logit of 1."""
    points: float = Field(1.0, gt=0.0)
    """``pointwise``: difference in expected score, of 1 to 10, that makes a logit of 1."""
    least_mass: float = Field(0.1, ge=0.0, le=1.0)
    """``pointwise``: the probability that the ten scores must have together; below it there is no rating."""
    samples: int = Field(4, ge=1)
    """``sampled``: answers drawn in each order."""
    answer_tokens: int = Field(8, ge=1)
    """``sampled``: the most tokens of an answer; a model that thinks first needs more."""
    certainty: float = Field(0.99, gt=0.5, le=1.0)
    """``program``: the probability given to the answer that alone passes its principle's checker."""
    contrasts: int = Field(96, ge=4)
    """``direction``: prompts that it learns from, each answered twice."""
    contrast_tokens: int = Field(48, ge=8)
    """``direction``: the most tokens of those answers."""

    @field_validator("clamp")
    @classmethod
    def _holds_one_half(cls, given: tuple[float, float] | None) -> tuple[float, float] | None:
        if given is not None and not 0 <= given[0] < 0.5 < given[1] <= 1:
            raise ValueError("a clamp must hold one half inside it; write it as [low, high], such as [0.4, 0.6]")
        return given

    @property
    def settings(self) -> dict[str, Any]:
        """How it asks, without whom: what a label's identity has besides the judge's model."""
        return self.model_dump(mode="json", exclude={"engine"})


def build_judge(
    config: JudgeConfig,
    constitution: Constitution,
    *,
    prompts: Sequence[Prompt],
    folder: Path,
    seed: int,
    engine: Engine | None = None,
    spending: Spending | None = None,
) -> Judge:
    """Return a judge; `engine` is one that is loaded already, else the config's is built.

    What it is asked is counted in `spending`. The direction judge learns from `prompts` (never held-out ones), once,
    and keeps what it learned in `folder`.
    """
    if config.kind == "preference_model":
        from cai.judges.preference_model import PreferenceModel, PreferenceModelJudge

        model = PreferenceModel.load(config.engine.model, head=config.head, dtype=config.engine.dtype)
        return PreferenceModelJudge(model)
    if config.kind == "program":
        return ProgramJudge(certainty=config.certainty)
    engine = engine or build_engine(config.engine)
    engine = spending.metered(engine) if spending else engine
    if config.kind in ("pairwise", "contrastive", "pointwise", "sampled"):
        return _asking_judge(config, constitution, engine, seed)
    if not hasattr(engine, "answer_states"):
        raise InputError(
            Problem("judge", 0, 0, f"the engine {engine.name!r} shows no hidden states", "use the kind 'transformers'")
        )
    return _direction_judge(config, constitution, cast(StateEngine, engine), prompts, folder, seed)


def _asking_judge(config: JudgeConfig, constitution: Constitution, engine: Engine, seed: int) -> Judge:
    shots = constitution.comparison_shots
    if config.kind == "contrastive":
        return ContrastiveJudge(engine, scale=config.scale)
    if config.kind == "pointwise":
        return PointwiseJudge(engine, scale=config.points, least_mass=config.least_mass)
    if config.kind == "sampled":
        return SampledJudge(
            engine,
            samples=config.samples,
            temperature=config.temperature,
            shots=shots,
            max_new_tokens=config.answer_tokens,
            seed=seed,
        )
    return PairwiseJudge(
        engine,
        temperature=config.temperature,
        shots=shots,
        thoughts=config.thoughts,
        clamp=config.clamp,
        seed=seed,
    )


def _direction_judge(
    config: JudgeConfig,
    constitution: Constitution,
    engine: StateEngine,
    prompts: Sequence[Prompt],
    folder: Path,
    seed: int,
) -> DirectionJudge:
    path = folder / "direction.safetensors"
    if is_main() and not path.exists():
        dialogues = [prompt.messages for prompt in prompts[: config.contrasts]]
        layers = middle_layers(engine.layers)
        contrasts = contrast_states(
            engine,
            dialogues,
            constitution.principles,
            layers=layers,
            seed=seed,
            examples=examples_of(constitution),
            max_new_tokens=config.contrast_tokens,
        )
        # Every fifth contrast is kept back to see how well the direction tells a pair it has not seen.
        back = np.arange(len(contrasts.good)) % 5 == 0
        if sum(~back) < 2:
            raise EngineError(f"only {len(back)} usable contrasts for the direction judge; raise judge.contrasts")
        unseen, kept = Direction.fit(contrasts.where(~back), layers), contrasts.where(back)
        right = unseen.score(kept.good, kept.good_lengths) > unseen.score(kept.bad, kept.bad_lengths)
        about = {"contrasts": len(back), "unseen": len(right), "right": int(right.sum())}
        atomic_write_json(folder / "judge.json", about)
        Direction.fit(contrasts, layers).save(path)
    wait_for_all()
    return DirectionJudge(engine, Direction.load(path))
