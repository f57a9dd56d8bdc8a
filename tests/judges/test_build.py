"""From a judge's config to a judge."""

import json
from pathlib import Path

import pytest

from cai.config import load_config
from cai.constitution import load_constitution
from cai.engines.scripted import ScriptedEngine
from cai.engines.transformers import TransformersEngine
from cai.errors import InputError
from cai.judges.base import Comparison
from cai.judges.build import JudgeConfig, build_judge
from cai.records.schema import Prompt
from cai.types import Message
from tests.judges.test_preference_model import classifier

CONSTITUTION = load_constitution("harmless")


def prompts(count: int) -> list[Prompt]:
    return [Prompt.of((Message("user", f"say something about {n}"),), kind="red_team") for n in range(count)]


@pytest.mark.parametrize("kind", ["pairwise", "contrastive", "pointwise", "sampled"])
def test_judges_that_ask_by_principle_need_no_learning(kind: str, tmp_path: Path) -> None:
    config = JudgeConfig.model_validate({"kind": kind})
    judge = build_judge(config, CONSTITUTION, prompts=[], folder=tmp_path, seed=0, engine=ScriptedEngine())
    assert (judge.name, judge.model, judge.by_principle) == (kind, "script", True)


def test_the_program_judge_needs_no_engine(tmp_path: Path) -> None:
    judge = build_judge(JudgeConfig(kind="program"), CONSTITUTION, prompts=[], folder=tmp_path, seed=0)
    assert (judge.name, judge.by_principle) == ("program", True)


def test_a_preference_model_judges_by_its_head(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = str(classifier(tiny_model_dir, tmp_path / "two", heads=("harmless", "helpful")))
    item = Comparison(
        id="x", prompt=prompts(1)[0].messages, response_a="Yes.", response_b="No.", principle=CONSTITUTION.principles[0]
    )

    def judged(**given: str) -> list[float | None]:
        config = JudgeConfig.model_validate({"kind": "preference_model", "engine": {"model": folder}, **given})
        judge = build_judge(config, CONSTITUTION, prompts=[], folder=tmp_path, seed=0)
        return [verdict.prob_a for verdict in judge.compare([item])]

    assert judged(head="harmless") != judged(head="helpful")
    with pytest.raises(InputError, match="has the heads harmless, helpful; say which"):
        judged()
    assert JudgeConfig(head="helpful").settings != JudgeConfig().settings


@pytest.mark.parametrize("clamp", [[0.6, 0.9], [0.4, 0.5], [-0.1, 0.6]])
def test_a_clamp_that_makes_votes_of_its_own_is_told_before_a_model_is_loaded(clamp: list[float]) -> None:
    with pytest.raises(InputError, match="a clamp must hold one half inside it"):
        load_config(JudgeConfig, None, ["kind=pairwise", f"clamp={clamp}"])


def test_an_engine_without_hidden_states_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no hidden states; use the kind 'transformers'"):
        build_judge(JudgeConfig(), CONSTITUTION, prompts=[], folder=tmp_path, seed=0, engine=ScriptedEngine())


def test_the_direction_judge_learns_once_and_keeps_it(tiny_model_dir: Path, tmp_path: Path) -> None:
    engine = TransformersEngine.load(str(tiny_model_dir), dtype="float32")
    config = JudgeConfig(contrasts=10, contrast_tokens=8)
    judge = build_judge(config, CONSTITUTION, prompts=prompts(12), folder=tmp_path, seed=0, engine=engine)
    learned = (tmp_path / "direction.safetensors").read_bytes()
    about = json.loads((tmp_path / "judge.json").read_text())
    assert about["contrasts"] == 10
    assert about["unseen"] == 2
    again = build_judge(config, CONSTITUTION, prompts=[], folder=tmp_path, seed=0, engine=engine)
    assert (tmp_path / "direction.safetensors").read_bytes() == learned
    comparison = Comparison(
        id="x", prompt=prompts(1)[0].messages, response_a="yes", response_b="no", principle=CONSTITUTION.principles[0]
    )
    assert list(judge.compare([comparison])) == list(again.compare([comparison]))


def test_settings_leave_the_model_out() -> None:
    here = JudgeConfig.model_validate({"engine": {"model": "/a/place"}})
    there = JudgeConfig.model_validate({"engine": {"model": "/another/place"}})
    assert here.settings == there.settings
    assert JudgeConfig(scale=0.2).settings != here.settings
