from pathlib import Path
from typing import Any

import pytest

from cai.errors import InputError
from cai.successor.plan import RunConfig, StagePlan, merged, plan_run


def plans(tmp_path: Path, **settings: Any) -> dict[str, StagePlan]:
    found = plan_run(RunConfig.model_validate({"out": tmp_path / "run", **settings}))
    return {plan.label: plan for plan in found}


def setting(plan: StagePlan, *names: str) -> Any:
    found: Any = plan.config.to_plain()
    for name in names:
        found = found[name]
    return found


def test_a_generation_has_seven_stages_in_the_order_of_what_they_need(tmp_path: Path) -> None:
    found = list(plans(tmp_path))
    assert found == [f"gen-1/{name}" for name in ("prompts", "generate", "sft", "label", "reward", "ppo", "evaluate")]


@pytest.mark.parametrize("rl", ["ppo", "dpo", "online_dpo", "grpo", "rloo"])
def test_what_a_stage_reads_was_given_or_made_before_it(tmp_path: Path, rl: str) -> None:
    # A file that no earlier stage makes would be found missing hours later.
    made: list[Path] = []
    for plan in plans(tmp_path, rl=rl, generations=2, model="org/model").values():
        for path in plan.reads:
            inside = path.is_relative_to(tmp_path / "run")
            assert not inside or any(path.is_relative_to(folder) for folder in made), (plan.label, path)
        made.append(plan.folder)
    assert len(made) == 14


def test_every_stage_writes_into_a_folder_of_its_own(tmp_path: Path) -> None:
    found = plans(tmp_path, generations=2)
    assert [plan.folder for plan in found.values()] == [tmp_path / "run" / label for label in found]


@pytest.mark.parametrize("rl", ["grpo", "rloo"])
def test_others_take_ppos_place_by_one_setting(tmp_path: Path, rl: str) -> None:
    found = plans(tmp_path, rl=rl)
    assert list(found) == [label.replace("ppo", rl) for label in plans(tmp_path)]
    assert setting(found[f"gen-1/{rl}"], "reward_model").endswith("gen-1/reward/model")
    assert setting(found["gen-1/evaluate"], "candidate", "model").endswith(f"gen-1/{rl}/model")


def test_dpo_takes_ppos_place_by_one_setting(tmp_path: Path) -> None:
    ppo, dpo = plans(tmp_path), plans(tmp_path, rl="dpo")
    assert [label.replace("ppo", "dpo") for label in ppo] == list(dpo)
    same = [label for label in ppo if label in dpo and ppo[label].config == dpo[label].config]
    assert same == [f"gen-1/{name}" for name in ("prompts", "generate", "sft", "label", "reward")]
    assert setting(dpo["gen-1/evaluate"], "candidate", "model").endswith("gen-1/dpo/model")


def test_online_dpo_takes_ppos_place_and_asks_its_preference_model(tmp_path: Path) -> None:
    found = plans(tmp_path, rl="online_dpo", constitution="harmless")
    assert list(found) == [label.replace("ppo", "online_dpo") for label in plans(tmp_path)]
    plan = found["gen-1/online_dpo"]
    assert setting(plan, "label", "judge", "kind") == "preference_model"
    assert setting(plan, "label", "judge", "engine", "model").endswith("gen-1/reward/model")
    assert setting(plan, "prompts") == [str(tmp_path / "run" / "gen-1" / "prompts" / "rl.jsonl")]
    assert setting(found["gen-1/evaluate"], "candidate", "model").endswith("gen-1/online_dpo/model")
    with pytest.raises(InputError, match=r"stages\.online_dpo: unknown key 'kid'; did you mean 'kind'"):
        plans(tmp_path, rl="online_dpo", stages={"online_dpo": {"label": {"judge": {"kid": "direction"}}}})


def test_a_generation_begins_with_the_one_before_it(tmp_path: Path) -> None:
    found = plans(tmp_path, generations=2, model="org/model")
    successor = str(tmp_path / "run" / "gen-1" / "ppo" / "model")
    for name in ("generate", "sft", "evaluate"):
        first, second = found[f"gen-1/{name}"].reads, found[f"gen-2/{name}"].reads
        assert Path("org/model") in first
        assert Path(successor) not in first or name == "evaluate"
        assert Path(successor) in second
    assert setting(found["gen-2/evaluate"], "parent", "model") == successor


def test_the_constitution_of_a_stage_is_a_file_that_it_depends_on(tmp_path: Path) -> None:
    found = plans(tmp_path)
    for name in ("generate", "label", "evaluate"):
        (file,) = [path for path in found[f"gen-1/{name}"].reads if path.name == "harmless.yaml"]
        assert file.is_file()


def test_an_adapter_is_read_too(tmp_path: Path) -> None:
    found = plans(tmp_path, stages={"generate": {"engine": {"adapter": "/a/lora"}}})
    assert Path("/a/lora") in found["gen-1/generate"].reads


def test_held_out_prompts_go_to_the_evaluation_alone(tmp_path: Path) -> None:
    held_out = tmp_path / "run" / "gen-1" / "prompts" / "held_out.jsonl"
    assert [label for label, plan in plans(tmp_path).items() if held_out in plan.reads] == ["gen-1/evaluate"]


def test_the_judges_that_a_model_was_trained_on_are_named(tmp_path: Path) -> None:
    plan = plans(tmp_path, stages={"label": {"judge": {"kind": "pairwise"}}})["gen-1/evaluate"]
    assert [judge["kind"] for judge in setting(plan, "judges")] == ["pairwise", "contrastive", "preference_model"]
    assert setting(plan, "trained_on") == ["pairwise", "preference_model"]


def test_settings_of_a_stage_win_over_those_of_the_size(tmp_path: Path) -> None:
    plan = plans(tmp_path, size="smoke", stages={"generate": {"rounds": 3, "sampling": {"top_p": 0.5}}})[
        "gen-1/generate"
    ]
    assert setting(plan, "rounds") == 3
    assert setting(plan, "sampling", "top_p") == 0.5
    assert setting(plan, "sampling", "max_new_tokens") == 40, "the rest of the section is the size's"


def test_seed_trackers_and_processes_reach_the_stages(tmp_path: Path) -> None:
    found = plans(tmp_path, seed=7, report_to=["tensorboard"], processes=2)
    assert [setting(plan, "seed") for label, plan in found.items() if label != "gen-1/prompts"] == [7] * 6
    trained = [plan for plan in found.values() if plan.name in ("sft", "reward", "ppo")]
    assert [setting(plan, "report_to") for plan in trained] == [["tensorboard"]] * 3
    assert [plan.processes for plan in found.values()] == [1, *[2] * 6]


def test_ones_own_prompts_are_read_from_where_the_command_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plans(tmp_path, prompts=[Path("mine.jsonl")])["gen-1/prompts"]
    assert plan.reads[0] == tmp_path / "mine.jsonl"
    assert plan.reads[1].name == "benign.jsonl"


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ({"sff": {}}, "stages.sff: unknown stage; did you mean 'sft'?"),
        ({"generate": {"round": 2}}, "stages.generate: unknown key 'round'; did you mean 'rounds'?"),
        ({"generate": {"rounds": "many"}}, "stages.generate: rounds: "),
        ({"prompts": {"label": 0}}, "stages.prompts: label: "),
        ({"sft": {"out": "/elsewhere"}}, "stages.sft.out: the run's folder decides where its stages write; remove it"),
    ],
)
def test_a_setting_that_no_stage_takes_is_named(tmp_path: Path, stages: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        plans(tmp_path, stages=stages)
    assert str(caught.value).startswith(said)


def test_all_unknown_stages_are_named_together(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        plans(tmp_path, stages={"sff": {}, "lable": {}, "ppo": {}})
    assert len(caught.value.problems) == 2


def test_sections_are_laid_over_each_other_and_nothing_is_changed_in_place() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    assert merged(base, {"a": {"c": [3]}, "d": {"e": 1}}) == {"a": {"b": 1, "c": [3]}, "d": {"e": 1}}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 1}
