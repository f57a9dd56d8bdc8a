from pathlib import Path

import pytest
import torch

from cai.losses.ppo import policy_loss, value_loss
from cai.train.ppo.batch import Seen, make_inputs, plan_minibatches, used_scores
from cai.train.ppo.config import PPOConfig
from tests.train.ppo.rig import batch_of, sample

PLAIN = PPOConfig(
    out=Path("out"), prompts=[Path("p.jsonl")], whiten_advantages=False, kl_coefficient=0.1, lam=0.5, minibatches=1,
    micro_batch=2,
)  # fmt: skip


def test_inputs_of_the_docstring() -> None:
    inputs = make_inputs([sample(0, [7, 8], [1, 2, 3]), sample(1, [9], [4, 5])], pad_id=0)
    assert inputs.packed["input_ids"].tolist() == [[7, 8, 1, 2, 9, 4]]
    assert inputs.packed["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1]]
    assert inputs.packed["layout"] == ((2, (2,)), (1, (1,)))
    assert inputs.packed["read"].tolist() == inputs.packed["answer_ids"].tolist() == [1, 2, 3, 4, 5]
    assert inputs.mask_BT.int().tolist() == [[1, 1, 1], [1, 1, 0]]


def test_four_tokens_by_hand_through_rewards_advantages_and_losses() -> None:
    batch = batch_of(
        [sample(0, [5], [1, 2, 3, 4], score=1.0)],
        PLAIN,
        ref_logprobs_BT=torch.tensor([[-1.0, -2.0, -1.0, -1.0]]),
    )
    # KL at token 1 is log p - log reference = 1, times 0.1; the score comes with the last token.
    torch.testing.assert_close(batch.rewards_BT, torch.tensor([[0.0, -0.1, 0.0, 1.0]]))
    # Backwards with gamma 1, lam 0.5, values 0: 1; 0 + 0.5; -0.1 + 0.25; 0 + 0.075.
    torch.testing.assert_close(batch.advantages_BT, torch.tensor([[0.075, 0.15, 0.5, 1.0]]))
    torch.testing.assert_close(batch.returns_BT, batch.advantages_BT)
    # The new policy has ratios e^0.1 (within the clip), 1.5 (beyond it), 1, 1.
    logprobs_BT = torch.tensor([[-0.9, -1.0 + 0.405465, -1.0, -1.0]])
    loss = policy_loss(
        logprobs_BT=logprobs_BT, old_logprobs_BT=batch.logprobs_BT, advantages_BT=batch.advantages_BT,
        mask_BT=batch.mask_BT, clip=PLAIN.clip,
    )  # fmt: skip
    assert float(loss.loss_sum) == pytest.approx(-(0.075 * 1.105171 + 0.15 * 1.2 + 0.5 + 1.0), abs=1e-5)
    assert (int(loss.token_count), int(loss.clipped_count)) == (4, 1)
    value = value_loss(
        values_BT=torch.tensor([[0.1, 0.1, 0.5, 0.5]]), old_values_BT=batch.values_BT, returns_BT=batch.returns_BT,
        mask_BT=batch.mask_BT, clip=0.2,
    )  # fmt: skip
    # Tokens 2 and 3 are held at 0.2, where their errors are the larger ones: 0.3 and 0.8.
    assert float(value.loss_sum) == pytest.approx(0.5 * (0.025**2 + 0.05**2 + 0.3**2 + 0.8**2), abs=1e-6)


def test_the_score_comes_with_the_last_valid_token_of_each_row() -> None:
    samples = [sample(0, [5], [1, 2, 3], score=2.0), sample(1, [5], [1], score=-1.0), sample(2, [5], [1, 2], score=3.0)]
    batch = batch_of(samples, PLAIN)
    assert batch.rewards_BT.tolist() == [[0, 0, 2], [-1, 0, 0], [0, 3, 0]]


def test_cut_off_answers_pay_and_scores_are_clipped_before() -> None:
    samples = [sample(0, [5], [1], score=9.0, cut_off=True), sample(1, [5], [1], score=9.0)]
    batch = batch_of(samples, PLAIN.model_copy(update={"missing_eos_penalty": 0.5, "reward_clip": 4.0}))
    assert batch.rewards_BT.tolist() == [[3.5], [4.0]]
    assert batch.scores_B.tolist() == [9.0, 9.0]


def test_a_longer_neighbour_changes_nothing() -> None:
    row = sample(0, [5], [1, 2], score=1.0)
    alone = batch_of([row], PLAIN)
    beside = batch_of([row, sample(1, [5], [1, 2, 3, 4, 5], score=4.0)], PLAIN)
    torch.testing.assert_close(beside.advantages_BT[:1, :2], alone.advantages_BT)
    assert beside.advantages_BT[0, 2:].tolist() == [0.0, 0.0, 0.0]


def test_whitened_advantages_have_mean_0_and_variance_1_over_valid_tokens() -> None:
    samples = [sample(row, [5], [1] * (row + 1), score=float(row)) for row in range(4)]
    batch = batch_of(samples, PLAIN.model_copy(update={"whiten_advantages": True}))
    valid = batch.advantages_BT[batch.mask_BT]
    assert float(valid.mean()) == pytest.approx(0, abs=1e-6)
    assert float(valid.var(unbiased=False)) == pytest.approx(1, abs=1e-5)


def test_whitened_rewards_have_variance_1() -> None:
    samples = [sample(row, [5], [1, 2], score=float(row)) for row in range(4)]
    batch = batch_of(samples, PLAIN.model_copy(update={"whiten_rewards": True}))
    assert float(batch.rewards_BT[batch.mask_BT].var(unbiased=False)) == pytest.approx(1, abs=1e-5)


def test_the_reported_kl_is_never_negative() -> None:
    rows = [sample(0, [5], [1, 2], score=0.0)]
    batch = batch_of(rows, PLAIN, ref_logprobs_BT=torch.tensor([[-0.5, -0.2]]))
    assert batch.kl_per_answer == pytest.approx((2.718282**0.5 - 1 - 0.5) + (2.718282**0.8 - 1 - 0.8), abs=1e-5)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_every_minibatch_and_make_as_many_passes(world: int) -> None:
    lengths = [9, 3, 7, 7, 5, 8, 2, 6, 4, 1]
    config = PLAIN.model_copy(update={"minibatches": 3})
    plans = [plan_minibatches(lengths, config, step=4, epoch=1, rank=rank, world=world) for rank in range(world)]
    alone = plan_minibatches(lengths, config, step=4, epoch=1)
    for number, whole in enumerate(alone):
        assert all(plan[number].rows == whole.rows for plan in plans)
        dealt = [row for plan in plans for rows in plan[number].passes for row in rows]
        assert sorted(dealt) == sorted(whole.rows)
        assert len({len(plan[number].passes) for plan in plans}) == 1
        assert max(len(rows) for plan in plans for rows in plan[number].passes) <= config.micro_batch
    assert sorted(row for minibatch in alone for row in minibatch.rows) == list(range(10))


def test_the_order_depends_on_seed_step_and_epoch() -> None:
    config = PLAIN.model_copy(update={"minibatches": 3})
    other = config.model_copy(update={"seed": 1})

    def rows(config: PPOConfig, step: int, epoch: int) -> list[tuple[int, ...]]:
        return [minibatch.rows for minibatch in plan_minibatches([1] * 30, config, step=step, epoch=epoch)]

    assert rows(config, 1, 0) == rows(config, 1, 0)
    assert len({str(rows(*case)) for case in [(config, 1, 0), (config, 1, 1), (config, 2, 0), (other, 1, 0)]}) == 4


def test_fewer_samples_than_minibatches_make_one_each() -> None:
    config = PLAIN.model_copy(update={"minibatches": 4})
    assert [len(minibatch.rows) for minibatch in plan_minibatches([3, 4], config, step=1, epoch=0)] == [1, 1]


def test_scores_are_normalised_then_clipped_then_charged() -> None:
    samples = [
        sample(0, [5], [1, 2], score=0.0, cut_off=True),
        sample(1, [5], [3], score=4.0),
        sample(2, [5], [3, 4], score=2.0),
    ]
    scores_B = torch.tensor([0.0, 4.0, 2.0])
    charged = {"missing_eos_penalty": 0.25, "min_tokens": 2, "too_short_penalty": 0.5}
    # Mean 2, variance 8/3: the scores become -1.22, 1.22 and 0.
    config = PPOConfig(
        out=Path("out"), prompts=[Path("p.jsonl")], normalize_scores="batch", reward_clip=1.0, **charged
    )  # fmt: skip
    assert used_scores(samples, scores_B, config).tolist() == pytest.approx([-1.25, 0.5, 0.0])
    running = config.model_copy(update={"normalize_scores": "running"})
    assert used_scores(samples, scores_B, running, Seen(10, 1.0, 40.0)).tolist() == pytest.approx([-0.75, 0.5, 0.5])


def test_moments_of_all_steps_are_those_of_all_scores() -> None:
    scores = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = Seen().plus(scores[:20].tolist()).plus(scores[20:].tolist())
    assert (seen.mean, seen.deviation) == pytest.approx((float(scores.mean()), float(scores.std(unbiased=False))))


def test_answers_that_were_cut_off_are_left_out_of_losses_and_whitening() -> None:
    config = PPOConfig(out=Path("out"), prompts=[Path("p.jsonl")], cut_off="mask")
    samples = [sample(0, [5], [1, 2], score=100.0, cut_off=True), sample(1, [5], [1], 1.0), sample(2, [5], [1, 2], 2.0)]
    batch = batch_of(samples, config)
    assert batch.tokens_B.tolist() == [0, 1, 2]
    trained = torch.cat([batch.advantages_BT[1, :1], batch.advantages_BT[2]])
    assert float(trained.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(trained.var(unbiased=False)) == pytest.approx(1.0, abs=1e-4)


def test_a_penalty_in_the_loss_is_not_in_the_reward() -> None:
    config = PPOConfig(out=Path("out"), prompts=[Path("p.jsonl")], kl_in="loss", kl_estimator="k3", kl_coefficient=0.5)
    batch = batch_of([sample(0, [5], [1, 2], score=1.0)], config, ref_logprobs_BT=torch.full((1, 2), -2.0))
    assert batch.rewards_BT.tolist() == [[0.0, 1.0]]
    assert batch.kl_in_loss == 0.5


def test_on_a_two_state_bandit_the_mean_update_is_the_policy_gradient() -> None:
    """Two prompts, two answers each. The analytic gradient by a logit is pi(a|s) (r(s, a) - mean reward at s) / 2."""
    logits_SA = torch.tensor([[0.3, -0.4], [-0.2, 0.9]], requires_grad=True)
    reward_SA = torch.tensor([[1.0, -1.0], [0.0, 2.0]])
    config = PPOConfig(out=Path("out"), prompts=[Path("p.jsonl")], whiten_advantages=False, kl_coefficient=0.0)
    generator = torch.Generator().manual_seed(0)
    steps, size = 300, 32
    updates = []
    for _ in range(steps):
        states_B = torch.arange(size) % 2
        logprobs_SA = torch.log_softmax(logits_SA, -1)
        actions_B = torch.multinomial(logprobs_SA[states_B].exp(), 1, generator=generator)[:, 0]
        logprobs_BT = logprobs_SA[states_B, actions_B][:, None]
        scores = reward_SA[states_B, actions_B].tolist()
        samples = [sample(row, [5], [int(a)], score=scores[row]) for row, a in enumerate(actions_B)]
        batch = batch_of(samples, config, logprobs_BT=logprobs_BT.detach(), ref_logprobs_BT=logprobs_BT.detach())
        loss = policy_loss(
            logprobs_BT=logprobs_BT,
            old_logprobs_BT=batch.logprobs_BT,
            advantages_BT=batch.advantages_BT,
            mask_BT=batch.mask_BT,
            clip=config.clip,
        )
        (gradient,) = torch.autograd.grad(loss.loss_sum / size, logits_SA)
        updates.append(-gradient.flatten())
    found = torch.stack(updates)
    policy_SA = torch.softmax(logits_SA.detach(), -1)
    expected = (policy_SA * (reward_SA - (policy_SA * reward_SA).sum(1, keepdim=True)) / 2).flatten()
    error = found.std(0) / steps**0.5
    assert bool(((found.mean(0) - expected).abs() < 3.5 * error).all())
    assert bool((expected.abs() > 10 * error).all())


def test_advantages_match_a_naive_loop_in_float64() -> None:
    """Penalty, score on the last token, values and traces, row by row, for answers of every length."""
    config = PPOConfig(
        out=Path("out"), prompts=[Path("p.jsonl")], whiten_advantages=False, gamma=0.9, lam=0.8, kl_coefficient=0.3,
        missing_eos_penalty=0.5, reward_clip=1.0,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    samples = [sample(n, [5], range(1, n + 2), score=n - 2.0, cut_off=n == 4) for n in range(5)]
    given = {name: torch.randn(5, 5, generator=generator) for name in ("logprobs_BT", "ref_logprobs_BT", "values_BT")}
    batch = batch_of(samples, config, **given)
    logprobs, refs, values = (given[name].double().tolist() for name in ("logprobs_BT", "ref_logprobs_BT", "values_BT"))
    for row, one in enumerate(samples):
        length, advantage = len(one.answer_ids), 0.0
        for t in reversed(range(length)):
            last = t == length - 1
            reward = -0.3 * (logprobs[row][t] - refs[row][t])
            if last:
                reward += max(-1.0, min(1.0, one.score or 0.0)) - 0.5 * one.cut_off
            advantage = (
                reward
                + (0.0 if last else 0.9 * values[row][t + 1])
                - values[row][t]
                + (0.0 if last else 0.72 * advantage)
            )
            assert float(batch.advantages_BT[row, t]) == pytest.approx(advantage, abs=1e-5)
        assert not batch.advantages_BT[row, length:].any()
