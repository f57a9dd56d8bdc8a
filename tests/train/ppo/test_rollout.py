import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from cai.errors import TrainingError
from cai.records.schema import Prompt
from cai.train.ppo.batch import Minibatch, Sample
from cai.train.ppo.rollout import (
    add_scores,
    check_finite,
    gather_samples,
    prompts_of_step,
    sample_answers,
    score_tokens,
)
from cai.train.ppo.trainer import Trainer
from cai.train.rewards.sum import RewardFunction, Rewards
from cai.types import Dialogue, Message
from tests.train.ppo.rig import sample, settings, trainer


def prompts(count: int) -> list[Prompt]:
    return [Prompt.of((Message("user", f"number {n}"),), kind="helpful") for n in range(count)]


def gives(*scores: float | None) -> Rewards:
    def reward(prompts: Sequence[Dialogue], answers: Sequence[str]) -> Sequence[float | None]:
        return scores

    function: RewardFunction = reward
    return Rewards.of(function)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Trainer:
    return trainer(tmp_path_factory.mktemp("rollout"), tiny_model_dir)


def answers(ready: Trainer, *, rank: int = 0, world: int = 1, step: int = 1) -> list[Sample]:
    chosen = prompts_of_step(ready.prompts, ready.config, step)
    return sample_answers(ready.engine, ready.renderer, chosen, ready.config, step=step, rank=rank, world=world)


def test_steps_go_through_the_prompts_in_shuffled_epochs(tmp_path: Path) -> None:
    config = settings(tmp_path, Path("model"), batch_size=4)
    pool = prompts(6)
    series = [prompt.key for step in range(1, 7) for prompt in prompts_of_step(pool, config, step)]
    epochs = [series[start : start + 6] for start in range(0, 24, 6)]
    assert all(sorted(epoch) == sorted(prompt.key for prompt in pool) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_engine_and_the_training_pass_agree_on_every_token(ready: Trainer) -> None:
    samples = answers(ready)
    plan = ready.learner.plan(samples, step=1, epoch=0)
    logprobs_BT, values_BT = score_tokens(
        ready.learner.policy, samples, plan, pad_id=ready.renderer.pad_id, device=torch.device("cpu")
    )
    for one, row_T in zip(samples, logprobs_BT, strict=True):
        sampled = torch.tensor(one.sampled_logprobs)
        torch.testing.assert_close(sampled, row_T[: len(sampled)], atol=1e-4, rtol=0)
    assert torch.equal(values_BT, torch.zeros_like(values_BT))


def test_neither_passes_nor_order_change_a_score(ready: Trainer) -> None:
    samples = answers(ready)
    plans = [
        [Minibatch(tuple(range(6)), (tuple(range(6)),))],
        [Minibatch(tuple(range(6)), ((3, 1), (5, 0), (4,), (2,)))],
    ]
    one, other = (
        score_tokens(ready.learner.policy, samples, plan, pad_id=0, device=torch.device("cpu"))[0] for plan in plans
    )
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_answers_do_not_depend_on_who_draws_them(ready: Trainer) -> None:
    alone = answers(ready)
    shared = sorted(answers(ready, rank=0, world=2) + answers(ready, rank=1, world=2), key=lambda one: one.row)
    assert [one.answer_ids for one in alone] == [one.answer_ids for one in shared]
    assert [one.answer_ids for one in answers(ready, step=2)] != [one.answer_ids for one in alone]


def test_what_a_models_generation_config_asks_for_bends_nothing(
    ready: Trainer, tmp_path: Path, tiny_model_dir: Path
) -> None:
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    asked = {"do_sample": True, "top_k": 1, "top_p": 0.1, "temperature": 0.1, "repetition_penalty": 2.0}
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(asked))
    found = answers(trainer(tmp_path, tmp_path / "model"))
    assert [one.answer_ids for one in found] == [one.answer_ids for one in answers(ready)]


def test_a_prompt_that_comes_twice_is_answered_twice(ready: Trainer) -> None:
    twice = prompts(1) * 2
    first, second = sample_answers(ready.engine, ready.renderer, twice, ready.config, step=1)
    assert first.answer_ids != second.answer_ids


def test_cut_off_is_what_the_limit_ended(ready: Trainer) -> None:
    ends = ready.renderer.end_ids
    for one in answers(ready):
        assert one.cut_off == (one.answer_ids[-1] not in ends)
        assert len(one.answer_ids) <= ready.config.max_new_tokens


def test_a_failed_reward_drops_its_sample() -> None:
    scored = add_scores([sample(0, [1], [2]), sample(1, [1], [2])], gives(None, 0.5))
    assert [(one.row, one.score) for one in gather_samples(scored)] == [(1, 0.5)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_an_error_that_names_the_row(bad: float) -> None:
    scored = add_scores([sample(0, [1], [2]), sample(1, [1], [2])], gives(0.5, bad))
    with pytest.raises(TrainingError, match=r"row 1, prompt key1 'prompt 1': -?(nan|inf)"):
        gather_samples(scored)


def test_scores_must_be_as_many_as_answers_and_at_least_one() -> None:
    with pytest.raises(TrainingError, match="1 scores for 2 answers"):
        add_scores([sample(0, [1], [2]), sample(1, [1], [2])], gives(0.5))
    with pytest.raises(TrainingError, match="no answer"):
        gather_samples(add_scores([sample(0, [1], [2])], gives(None)))


def test_log_probabilities_that_are_no_numbers_are_named() -> None:
    rows = [sample(0, [1], [2]), sample(1, [1], [2])]
    with pytest.raises(TrainingError, match=r"ref_logprobs of 1 answers .*row 1"):
        check_finite(rows, logprobs_BT=torch.zeros(2, 1), ref_logprobs_BT=torch.tensor([[0.0], [math.nan]]))
