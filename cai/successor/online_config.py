"""The settings of online DPO. They stand apart from the trainer so that planning a run loads no torch."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from cai.config import Paths
from cai.engines.build import EngineConfig
from cai.label.config import LabelConfig
from cai.train.configs import REFERENCE_FREE, DPOConfig


class RoundLabels(LabelConfig):
    """How a round's pairs are made and judged: what `cai label` takes, but for what the rounds decide."""

    prompts: list[Path] = Field(default_factory=list)
    """Left out: those of the round."""
    out: Path = Path()
    """Left out: a folder of the round."""

    @model_validator(mode="after")
    def _leaves_the_rest_to_the_rounds(self) -> Self:
        ours = {"prompts": self.prompts, "out": self.out != Path(), "seed": self.seed, "shard": self.shard}
        ours["engine.model"] = self.engine.model != EngineConfig().model
        if given := [name for name, value in ours.items() if value]:
            raise ValueError(f"the rounds decide {given[0]!r} (the policy answers their prompts); remove it")
        return self


class OnlineDPOConfig(DPOConfig):
    """DPO in rounds: the policy answers, a judge labels its answers, the policy learns from the labels, and again.

    Guo et al. 2024 (arXiv 2402.04792) with whole rounds in the place of steps, as Xiong et al. 2023 (2312.11456) and
    Yuan et al. 2024 (2401.10020) have them. What `DPOConfig` has is of every round.
    """

    data: list[Path] = Field(default_factory=list)
    """Left out: a round trains on the pairs that it has made."""
    prompts: Paths = Field(min_length=1)
    """Prompt files, as PPO reads them."""
    rounds: int = Field(3, ge=1)
    prompts_per_round: int | None = Field(None, ge=1)
    """Prompts of a round: the next ones of an order that the seed shuffles, and from the front again after the last.
    None takes all each time; the answers are others."""
    label: RoundLabels = RoundLabels()
    """The judge, the constitution, and how answers are sampled."""
    follow: bool = False
    """Hold each round to the policy that it begins with (Xiong, Yuan), so that their sum may go far; else all are held
    to `reference`, or the start (Guo)."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.data:
            raise ValueError("a round trains on the pairs that it makes; remove 'data', or take plain DPO")
        if self.follow and self.reference is not None:
            raise ValueError("with 'follow' a round's own start is its reference; remove one of the two")
        if self.reference_mode == "adapter" and not self.follow:
            raise ValueError("an adapter that is turned off leaves where its round starts; set follow: true")
        return self

    def of_round(self, number: int, model: str, folder: Path, seed: int) -> tuple[LabelConfig, DPOConfig]:
        """Return the settings of the two stages of a round (from 1), whose policy is `model`, in its folder."""
        label = LabelConfig.model_validate(
            {
                **{name: getattr(self.label, name) for name in LabelConfig.model_fields},
                "engine": self.label.engine.model_copy(update={"model": model}),
                "prompts": [folder / "prompts.jsonl"],
                "out": folder / "label",
                "seed": seed,
            }
        )
        held_to_start = not self.follow and self.loss not in REFERENCE_FREE
        dpo = DPOConfig.model_validate(
            {
                **{name: getattr(self, name) for name in DPOConfig.model_fields},
                "model": model,
                "data": [folder / "label" / "pairs.jsonl"],
                "out": folder / "dpo",
                "seed": seed,
                "reference": (self.reference or self.model) if held_to_start else None,
            }
        )
        return label, dpo
