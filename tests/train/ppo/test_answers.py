import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from cai.engines.base import Engine
from cai.engines.render import Renderer
from cai.engines.transformers import TransformersEngine
from cai.errors import EngineError
from cai.records.schema import Prompt
from cai.train.ppo import answers
from cai.train.ppo.batch import Batch, Sample
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.policy import causal_of, load_policy
from cai.train.ppo.rollout import prompts_of_step, sample_answers
from cai.train.ppo.sampler import Interrupted
from cai.train.ppo.step import Learner
from cai.train.ppo.trainer import Trainer, run_ppo
from cai.types import Dialogue
from tests.train.ppo.rig import interrupted, metrics, settings, trainer, vowels, weights

AHEAD: dict[str, Any] = {"rollout": {"ahead": True}, "steps": 4, "learning_rate": 1e-2}
LORA: dict[str, Any] = {"lora": {"r": 2}}


def drawing() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rollout"]


def drawn_by(ready: Trainer, network: torch.nn.Module, step: int) -> list[tuple[int, ...]]:
    """Return the answers that a network gives to a step's prompts."""
    engine = TransformersEngine(network, ready.tokenizer)
    prompts = prompts_of_step(ready.prompts, ready.config, step)
    return [one.answer_ids for one in sample_answers(engine, ready.renderer, prompts, ready.config, step=step)]


def watch(monkeypatch: pytest.MonkeyPatch, before: Any = None) -> dict[int, list[tuple[int, ...]]]:
    """Keep what is drawn by its step; `before` runs first, in the thread that draws."""
    seen: dict[int, list[tuple[int, ...]]] = {}

    def draw(
        engine: Engine, renderer: Renderer, prompts: Sequence[Prompt], config: PPOConfig, *, step: int, **share: int
    ) -> list[Sample]:
        if before is not None:
            before(step)
        found = sample_answers(engine, renderer, prompts, config, step=step, **share)
        seen[step] = [one.answer_ids for one in found]
        return found

    monkeypatch.setattr(answers, "sample_answers", draw)
    return seen


@pytest.mark.parametrize("options", [{}, LORA])
def test_a_step_is_drawn_by_the_weights_that_the_one_before_it_began_with(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Also where it is drawn after that step's updates: each drawing ahead waits until they are over."""
    trained = {step: threading.Event() for step in range(1, 5)}
    learn = Learner.learn

    def after_the_updates(step: int) -> None:
        assert step == 1 or trained[step - 1].wait(20), "it is not drawn while the policy trains"

    def tell(learner: Learner, batch: Batch, *, step: int) -> dict[str, float]:
        found = learn(learner, batch, step=step)
        trained[step].set()
        return found

    seen = watch(monkeypatch, after_the_updates)
    monkeypatch.setattr(Learner, "learn", tell)
    ready = trainer(tmp_path, tiny_model_dir, **AHEAD, **options)
    expected, stale = {}, {}
    for step in range(1, 5):
        policy = ready.learner.policy.policy
        for later in {1: (1, 2), 2: (3,), 3: (4,)}.get(step, ()):
            expected[later] = drawn_by(ready, policy, later)
        ready.step(step)
        stale[step + 1] = drawn_by(ready, policy, step + 1)
    ready.answers.close()
    assert seen == expected
    assert any(seen[step] != stale[step] for step in (2, 3, 4))


def test_neither_a_slow_engine_nor_a_slow_training_changes_anything(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outs = []
    for name, training, drawing in (("slow training", 0.3, 0.0), ("slow engine", 0.0, 0.3)):

        def reward(prompts: Sequence[Dialogue], answers: Sequence[str]) -> Sequence[float | None]:
            time.sleep(training)  # noqa: B023
            return vowels(prompts, answers)

        watch(monkeypatch, lambda step: time.sleep(drawing))  # noqa: B023
        config = settings(tmp_path / name, tiny_model_dir, **AHEAD)
        run_ppo(config, reward)
        outs.append(config.out)
    rows = [metrics(out) for out in outs]
    assert rows[0] == rows[1]
    assert all(torch.equal(weight, weights(outs[1])[name]) for name, weight in weights(outs[0]).items())
    assert rows[0][0]["weight_max"] == pytest.approx(1, abs=1e-4)
    assert max(row["weight_max"] for row in rows[0]) > 1.01
    assert all(row["ratio_min"] <= 1 <= row["ratio_max"] for row in rows[0])


@pytest.mark.parametrize(("options", "held_out"), [({}, False), (LORA, False), ({}, True)])
def test_a_run_that_was_interrupted_ends_like_one_that_was_not(
    tmp_path: Path, tiny_model_dir: Path, options: dict[str, Any], held_out: bool
) -> None:
    """The batch under way goes on with it, though the weights that drew it are gone."""
    outs = []
    if held_out:
        prompts = tmp_path / "held_out.jsonl"
        prompts.write_text('{"prompt": "And now?"}\n')
        options = {"eval_prompts": [prompts], "eval_every": 1}
    for name in ("whole", "cut"):
        config = settings(tmp_path / name, tiny_model_dir, **{**AHEAD, "steps": 5}, save_every=2, **options)
        if name == "cut":
            with pytest.raises(KeyboardInterrupt):
                run_ppo(config, interrupted(7 if held_out else 4))
            assert not drawing()
            (saved,) = (config.out / "checkpoints").iterdir()
            assert (saved.name, (saved / "ahead.json").exists()) == ("checkpoint-2", True)
        run_ppo(config, vowels)
        outs.append(config.out)
    assert metrics(outs[0]) == metrics(outs[1])
    assert all(torch.equal(weight, weights(outs[1])[name]) for name, weight in weights(outs[0]).items())


def test_what_is_under_way_ends_with_the_run(tmp_path: Path, tiny_model_dir: Path) -> None:
    ready = trainer(tmp_path, tiny_model_dir, **AHEAD, max_new_tokens=400, batch_size=64, max_length=512)
    ready.answers._begin(2)
    future = ready.answers._next
    assert future is not None
    start = time.perf_counter()
    ready.answers.close()
    assert isinstance(future.exception(), Interrupted)
    assert time.perf_counter() - start < 2
    time.sleep(0.1)
    assert not drawing()


def test_an_error_of_the_engine_ends_the_run(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(step: int) -> None:
        if step == 3:
            raise EngineError("the engine is gone")

    watch(monkeypatch, breaks)
    config = settings(tmp_path, tiny_model_dir, **AHEAD)
    with pytest.raises(EngineError, match="the engine is gone"):
        run_ppo(config, vowels)
    assert [row["step"] for row in metrics(config.out)] == [1, 2]


def test_a_checkpoints_answers_are_dealt_out_to_the_processes(tmp_path: Path, tiny_model_dir: Path) -> None:
    ready = trainer(tmp_path, tiny_model_dir, **AHEAD)
    sampler = ready.answers._sampler
    given = answers.Answers(sampler, ready.prompts, ready.config)._draw(3)
    shares = [
        answers.Answers(sampler, ready.prompts, ready.config, rank=rank, world=2, drawn=given).ahead()
        for rank in range(2)
    ]
    assert shares == [given[0::2], given[1::2]]


def test_a_copy_shares_what_is_frozen(tmp_path: Path, tiny_model_dir: Path) -> None:
    ready = trainer(tmp_path, tiny_model_dir, **AHEAD, **LORA)
    engine = ready.engine
    assert isinstance(engine, TransformersEngine)
    mine = dict(engine.network.causal.named_parameters())
    for name, weight in causal_of(ready.learner.policy.policy).named_parameters():
        assert (mine[name] is weight) == (not weight.requires_grad)
    assert any(weight.requires_grad for weight in load_policy(ready.config, torch.device("cpu")).parameters())
