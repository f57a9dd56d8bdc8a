"""From a judge's config to a judge: one place that knows them all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field

from cai.config import Config
from cai.constitution import Constitution
from cai.engines.base import Engine
from cai.engines.build import EngineConfig, build_engine
from cai.errors import EngineError, InputError, Problem
from cai.judges.base import Judge
from cai.judges.contrastive import ContrastiveJudge
from cai.judges.direction import (
    Direction,
    DirectionJudge,
    StateEngine,
    contrast_states,
    middle_layers,
)
from cai.judges.pairwise import PairwiseJudge
from cai.processes import is_main, wait_for_all
from cai.records.schema import Prompt
from cai.storage import atomic_write_json

JudgeKind = Literal["pairwise", "contrastive", "direction", "preference_model"]


class JudgeConfig(Config):
    """Which judge, and which model it asks."""

    kind: JudgeKind = "direction"
    """``pairwise`` is the paper's, for models of some billion parameters; ``direction`` serves small ones."""
    engine: EngineConfig = EngineConfig()
    """The feedback model; for ``preference_model``, its `model` is the preference model's folder."""
    temperature: float = Field(1.0, gt=0.0)
    """``pairwise``: divides the logits."""
    scale: float = Field(0.1, gt=0.0)
    """``contrastive``: nats per token that make a logit of 1."""
    contrasts: int = Field(96, ge=4)
    """``direction``: prompts that it learns from, each answered twice."""
    contrast_tokens: int = Field(48, ge=8)
    """``direction``: the most tokens of those answers."""

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
) -> Judge:
    """Return a judge; `engine` is one that is loaded already, else the config's is built.

    The direction judge learns from `prompts` (never held-out ones), once, and keeps what it learned in `folder`.
    """
    if config.kind == "preference_model":
        from cai.judges.preference_model import PreferenceModel, PreferenceModelJudge

        return PreferenceModelJudge(PreferenceModel.load(config.engine.model, dtype=config.engine.dtype))
    engine = engine or build_engine(config.engine)
    if config.kind == "pairwise":
        return PairwiseJudge(engine, temperature=config.temperature, shots=constitution.comparison_shots)
    if config.kind == "contrastive":
        return ContrastiveJudge(engine, scale=config.scale)
    if not hasattr(engine, "answer_states"):
        raise InputError(
            Problem("judge", 0, 0, f"the engine {engine.name!r} shows no hidden states", "use the kind 'transformers'")
        )
    return _direction_judge(config, constitution, cast(StateEngine, engine), prompts, folder, seed)


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
        good, bad = contrast_states(
            engine,
            dialogues,
            constitution.principles,
            layers=layers,
            seed=seed,
            max_new_tokens=config.contrast_tokens,
        )
        # Every fifth contrast is kept back to see how well the direction tells a pair it has not seen.
        back = [index for index in range(len(good)) if index % 5 == 0]
        rest = [index for index in range(len(good)) if index % 5]
        if len(rest) < 2:
            raise EngineError(f"only {len(good)} usable contrasts for the direction judge; raise judge.contrasts")
        unseen = Direction.fit(good[rest], bad[rest], layers)
        right = sum(unseen.score(good[back]) > unseen.score(bad[back]))
        atomic_write_json(folder / "judge.json", {"contrasts": len(good), "unseen": len(back), "right": int(right)})
        Direction.fit(good, bad, layers).save(path)
    wait_for_all()
    return DirectionJudge(engine, Direction.load(path))
