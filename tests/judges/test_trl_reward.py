"""A preference model in TRL's GRPOTrainer: a real step, and every form in which it gives prompts and completions."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from cai.errors import InputError
from cai.judges.preference_model import PreferenceModel
from cai.judges.trl_reward import TRLReward
from cai.types import Message
from tests.judges.test_preference_model import classifier

CHAT = [{"role": "user", "content": "A fox?"}]


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> PreferenceModel:
    return PreferenceModel.load(str(classifier(tiny_model_dir, tmp_path_factory.mktemp("pm") / "model")))


def test_each_form_gives_the_models_score(model: PreferenceModel) -> None:
    reward = TRLReward(model)
    wanted = model.score([((Message("user", "A fox?"),), "It is good.")])
    said = [{"role": "assistant", "content": "It is good."}]
    assert reward(prompts=[CHAT], completions=[said], completion_ids=[[1]], trainer_state=None) == wanted
    assert reward(prompts=["A fox?"], completions=["It is good."]) == wanted
    more = [{"role": "assistant", "content": "Well."}, {"role": "user", "content": "And?"}, *said]
    longer = (Message("user", "A fox?"), Message("assistant", "Well."), Message("user", "And?"))
    assert reward(prompts=[CHAT], completions=[more]) == model.score([(longer, "It is good.")])
    with pytest.raises(ValueError, match="does not end with a text of the assistant's"):
        reward(prompts=[CHAT], completions=[[{"role": "tool", "content": "3"}]])
    with pytest.raises(ValueError, match="shorter"):
        reward(prompts=[CHAT, CHAT], completions=[said])


def test_a_missing_principle_is_told_before_the_first_step(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = str(classifier(tiny_model_dir, tmp_path / "told", told=True))
    with pytest.raises(InputError, match="judges by a principle"):
        TRLReward(PreferenceModel.load(folder))
    assert TRLReward(PreferenceModel.load(folder, principle="Be kind."))(["A fox?"], ["Yes."])


@pytest.mark.parametrize("prompt", [CHAT, "A fox?"], ids=["messages", "text"])
def test_grpo_trains_on_it(model: PreferenceModel, tiny_model_dir: Path, tmp_path: Path, prompt: Any) -> None:
    import trl

    given: list[tuple[Any, Any]] = []
    reward = TRLReward(model, name="harmless")

    class Watched(TRLReward):
        def __call__(self, prompts: Any, completions: Any, **more: Any) -> list[float | None]:
            given.extend(zip(prompts, completions, strict=True))
            return reward(prompts, completions, **more)

    plain: dict[str, Any] = {"use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True}
    trainer = trl.GRPOTrainer(
        model=str(tiny_model_dir),
        reward_funcs=Watched(model, name="harmless"),
        args=trl.GRPOConfig(
            output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_completion_length=6,
            max_steps=1, logging_steps=1, save_strategy="no", **plain,
        ),
        train_dataset=Dataset.from_list([{"prompt": prompt, "extra": 1}] * 4),
    )  # fmt: skip
    trainer.train()
    (logged,) = [row for row in trainer.state.log_history if "reward" in row]
    assert len(given) == 4
    expected: list[Any] = reward([each for each, _ in given], [said for _, said in given])
    assert logged["rewards/harmless/mean"] == pytest.approx(sum(expected) / 4, abs=1e-5)
