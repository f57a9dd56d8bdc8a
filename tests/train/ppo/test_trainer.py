import itertools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cai.errors import InputError, TrainingError
from cai.processes import cpu_launch_command
from cai.train.checkpoints import newest_checkpoint
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.trainer import run_ppo
from cai.types import Dialogue
from tests.engines import tiny
from tests.engines.fault_server import LoopbackServer, Reply, Seen
from tests.train.ppo.rig import REWARDS, environment, metrics, settings, vowels, weights

ROOT = Path(__file__).parents[3]
RIG = str(Path(__file__).with_name("rig.py"))


def start(config: PPOConfig, *words: str, processes: int = 1, **more: str) -> int:
    """Train in processes of their own, and return the exit code."""
    path = config.out.parent / "config.json"
    path.write_text(config.model_dump_json())
    target = [RIG, str(path), *words]
    command = [sys.executable, *target] if processes == 1 else cpu_launch_command(processes, target)
    done = subprocess.run(command, env=environment(**more), capture_output=True, text=True, check=False)
    assert done.returncode == 0 or words, done.stderr[-3000:]
    return done.returncode


def test_the_reward_rises(tmp_path: Path, tiny_model_dir: Path) -> None:
    config = settings(
        tmp_path, tiny_model_dir, steps=30, batch_size=32, micro_batch=16, learning_rate=3e-3, max_new_tokens=12,
        kl_coefficient=0.0,
    )  # fmt: skip
    run_ppo(config, vowels)
    scores = [row["score"] for row in metrics(config.out)]
    first, last = sum(scores[:5]) / 5, sum(scores[-5:]) / 5
    spread = metrics(config.out)[0]["score_std"] / math.sqrt(5 * config.batch_size)
    assert last > first + 10 * spread
    assert last > 1.5 * first


@pytest.mark.slow
def test_most_of_the_reachable_reward_is_learned() -> None:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks" / "ppo_learning.py"), "--quick"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "1 of 1 seeds" in done.stdout


def test_the_penalty_holds_the_policy_near_its_reference(tmp_path: Path, tiny_model_dir: Path) -> None:
    kl = []
    for coefficient in (0.0, 1.0):
        config = settings(tmp_path / str(coefficient), tiny_model_dir, steps=10, kl_coefficient=coefficient)
        run_ppo(config, vowels)
        rows = metrics(config.out)
        assert rows[0]["kl"] == 0.0
        assert all(row["kl"] >= 0 for row in rows)
        kl.append(rows[-1]["kl"])
    assert kl[1] < 0.7 * kl[0]


def test_what_a_finished_run_leaves(tmp_path: Path, tiny_model_dir: Path) -> None:
    config = settings(tmp_path, tiny_model_dir, steps=3, save_every=1, samples_every=2, samples_shown=3)
    run_ppo(config, vowels)
    left = {"model", "metrics.jsonl", "samples.jsonl", "result.json"}
    assert {path.name for path in config.out.iterdir()} == {*left, ".lock"}
    rows = [json.loads(line) for line in (config.out / "samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [row["shown_as"] for row in rows[:3]] == ["best", "worst", "changed most"]
    assert set(rows[0]) == {"step", "shown_as", "prompt", "answer", "score", "change", "reward_function"}
    result = json.loads((config.out / "result.json").read_text())
    assert result["counts"] == {"steps": 3, "answers": 18, "prompts": 10, "prompts_too_long": 0}
    AutoTokenizer.from_pretrained(config.out / "model")
    trained = AutoModelForCausalLM.from_pretrained(config.out / "model")
    start = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert not torch.equal(trained.model.norm.weight, start.model.norm.weight)


def test_a_run_that_is_done_is_left_alone(tmp_path: Path, tiny_model_dir: Path) -> None:
    config = settings(tmp_path, tiny_model_dir, steps=1)
    run_ppo(config, vowels)
    before = (config.out / "model" / "model.safetensors").stat().st_mtime_ns
    run_ppo(config, vowels)
    assert (config.out / "model" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("options", [{}, {"kl_in": "loss", "kl_estimator": "k3"}])
def test_the_penalty_is_steered_to_its_target(tmp_path: Path, tiny_model_dir: Path, options: dict[str, Any]) -> None:
    steered = {"kl_target": 0.05, "kl_horizon": 12, "kl_coefficient": 0.2}
    config = settings(tmp_path, tiny_model_dir, steps=4, **steered, **options)
    run_ppo(config, vowels)
    rows = metrics(config.out)
    assert rows[0]["kl_coefficient"] == 0.2
    for row, following in itertools.pairwise(rows):
        # Ziegler 2019: a relative error of at most a fifth, over the horizon, for a step's six answers.
        error = min(max(row["kl"] / 0.05 - 1, -0.2), 0.2)
        assert following["kl_coefficient"] == pytest.approx(row["kl_coefficient"] * (1 + error * 6 / 12))
    assert rows[1]["kl_coefficient"] < 0.2  # the first step has no KL yet
    assert ("kl_loss" in rows[-1]) == bool(options)


ADAPTIVE: dict[str, Any] = {"steps": 5, "save_every": 2, "kl_target": 0.01, "kl_horizon": 10, "kl_coefficient": 0.2}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in the processes that are killed: how work is cut up among threads shows in the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("options", "calls"),
    [
        # In step 1, before any checkpoint; in step 4, after that of step 2; in step 5, the first after that of step 4.
        ({}, ["1", "4", "3"]),
        ({"lora": {"r": 2}}, ["4"]),
        ({"precision": "bf16"}, ["4"]),
        ({"reference_ema": 0.9, "normalize_scores": "running"}, ["4"]),
        ({"rollout": {"ahead": True}}, ["1", "4", "3"]),
    ],
)
def test_a_run_that_was_killed_ends_like_one_that_was_not(
    tmp_path: Path, tiny_model_dir: Path, options: dict[str, Any], calls: list[str]
) -> None:
    whole = settings(tmp_path / "whole", tiny_model_dir, **ADAPTIVE, **options)
    run_ppo(whole, vowels)
    killed = settings(tmp_path / "killed", tiny_model_dir, **ADAPTIVE, **options)
    for call in calls:
        assert start(killed, call) == 9
    assert len(metrics(killed.out)) in (3, 4)
    run_ppo(killed, vowels)
    assert metrics(killed.out) == metrics(whole.out)
    assert (killed.out / "samples.jsonl").read_bytes() == (whole.out / "samples.jsonl").read_bytes()
    expected, found = weights(whole.out), weights(killed.out)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert len({row["kl_coefficient"] for row in metrics(whole.out)}) > 2


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose answers end by themselves, some soon and some late."""
    folder = tmp_path_factory.mktemp("ragged")
    model = tiny.llama(tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight[tiny.shared_tokenizer().eos_token_id] *= 6
    model.save_pretrained(folder)
    tiny.shared_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("ahead", "reward"), [(False, "picky"), (True, "vowels")])
def test_two_processes_end_where_one_does(tmp_path: Path, ragged: Path, ahead: bool, reward: str) -> None:
    outs = []
    for processes in (1, 2):
        # 7 rows in minibatches of 3 and 4: one process has a pass without rows.
        config = settings(
            tmp_path / str(processes), ragged, steps=4, batch_size=7, save_every=2, micro_batch=1,
            rollout={"ahead": ahead}, cut_off="mask", normalize_by="sequence", entropy_coefficient=0.01,
        )  # fmt: skip
        if processes == 1:
            run_ppo(config, REWARDS[reward])
        else:
            assert start(config, processes=processes, REWARD=reward) == 0
        outs.append(config.out)
    one, two = metrics(outs[0]), metrics(outs[1])
    for single, double in zip(one, two, strict=True):
        assert double == pytest.approx(single, abs=1e-4, rel=1e-4)
    assert any(row["length"] < 8 for row in one)
    assert any(0 < row["cut_off"] < 1 for row in one)
    assert any(row["dropped"] for row in one) == (reward == "picky")
    expected, found = weights(outs[0]), weights(outs[1])
    assert max(float((expected[name] - found[name]).abs().max()) for name in expected) <= 1e-5
    result = json.loads((outs[1] / "result.json").read_text())
    assert result["processes"] == 2


@pytest.mark.slow
def test_when_one_process_dies_the_others_go_and_the_run_goes_on_to_the_same_bits(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    whole, config = (settings(tmp_path / name, tiny_model_dir, **ADAPTIVE) for name in ("whole", "killed"))
    path = config.out.parent / "config.json"
    path.write_text(config.model_dump_json())
    command = cpu_launch_command(2, [RIG, str(path), "4", "1"])  # the second dies in step 4
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    seconds = time.time() - json.loads(done.stdout.splitlines()[-1])["dead"]
    assert done.returncode != 0
    assert seconds < 60
    alive = [process for process in psutil.process_iter(["cmdline"]) if str(path) in (process.info["cmdline"] or [])]
    assert alive == []
    assert newest_checkpoint(config.out / "checkpoints") == config.out / "checkpoints" / "checkpoint-2"
    for one in (config, whole):
        assert start(one, processes=2) == 0
    assert [row["step"] for row in metrics(config.out)] == [1, 2, 3, 4, 5]
    assert metrics(config.out) == metrics(whole.out)
    expected, found = weights(whole.out), weights(config.out)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_reward_that_is_no_number_stops_the_run_before_the_step(tmp_path: Path, tiny_model_dir: Path) -> None:
    config = settings(tmp_path, tiny_model_dir, steps=4, save_every=1)
    calls = 0

    def breaks(prompts: Sequence[Dialogue], answers: Sequence[str]) -> Sequence[float | None]:
        nonlocal calls
        calls += 1
        return [math.nan if calls == 3 else 0.5 for _ in answers]

    with pytest.raises(TrainingError, match=r"reward of 6 answers is not a finite number.*row 0"):
        run_ppo(config, breaks)
    assert [row["step"] for row in metrics(config.out)] == [1, 2]
    assert newest_checkpoint(config.out / "checkpoints") == config.out / "checkpoints" / "checkpoint-2"
    assert not (config.out / "model").exists()
    run_ppo(config, breaks)
    assert [row["step"] for row in metrics(config.out)] == [1, 2, 3, 4]


def test_failed_rewards_are_left_out_and_counted(tmp_path: Path, tiny_model_dir: Path) -> None:
    def sometimes(prompts: Sequence[Dialogue], answers: Sequence[str]) -> Sequence[float | None]:
        return [None if place % 3 == 0 else 0.5 for place in range(len(answers))]

    config = settings(tmp_path, tiny_model_dir, steps=1)
    run_ppo(config, sometimes)
    assert metrics(config.out)[0]["dropped"] == 2
    assert json.loads((config.out / "result.json").read_text())["counts"]["answers"] == 4


def test_answers_that_a_reward_server_is_late_with_are_left_out_and_counted(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    def sometimes_late(seen: Seen) -> Reply:
        late = {"3", "7"} & {*seen.json["messages"][0][-2]["content"]}
        return Reply(after=3.0 if late else 0.0, body=b'{"rewards": [0.5]}')

    with LoopbackServer(sometimes_late) as server:
        url = f"http://127.0.0.1:{server.port}/get_reward"
        http = {"kind": "http", "url": url, "batch": 1, "timeout": 1.0, "retries": 0}
        config = settings(tmp_path, tiny_model_dir, steps=1, batch_size=10, rewards=[http])
        run_ppo(config)
    assert [(row["dropped"], row["score"]) for row in metrics(config.out)] == [(2, 0.5)]


def test_prompts_without_room_for_an_answer_are_left_out_and_counted(tmp_path: Path, tiny_model_dir: Path) -> None:
    config = settings(tmp_path, tiny_model_dir, steps=1, max_length=64)
    with config.prompts[0].open("a") as file:
        file.write(json.dumps({"prompt": "word " * 200}) + "\n")
    run_ppo(config, vowels)
    counts = json.loads((config.out / "result.json").read_text())["counts"]
    assert (counts["prompts"], counts["prompts_too_long"]) == (10, 1)
    short = settings(tmp_path / "short", tiny_model_dir, max_length=10)
    with pytest.raises(InputError, match="no prompt of at most 2 tokens"):
        run_ppo(short, vowels)


def test_bad_input_is_named_before_a_model_is_loaded(tmp_path: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(InputError, match="reward_model: no preference model is named"):
        run_ppo(settings(tmp_path, tiny_model_dir))
    with pytest.raises(InputError, match="no such file"):
        run_ppo(settings(tmp_path, tiny_model_dir, prompts=[tmp_path / "nowhere.jsonl"]), vowels)
    with pytest.raises(InputError, match="no such folder"):
        run_ppo(settings(tmp_path, tmp_path / "no-model"), vowels)
    (tmp_path / "wrong").mkdir()
    with pytest.raises(InputError, match=r"no config.json"):
        run_ppo(settings(tmp_path, tiny_model_dir, reward_model=tmp_path / "wrong"))
    with pytest.raises(InputError, match="not a preference model"):
        run_ppo(settings(tmp_path, tiny_model_dir, value_init=tiny_model_dir), vowels)
