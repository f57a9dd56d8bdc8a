"""The engine of many workers, on a cluster of two that is started here; each worker runs the tiny model for real."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cai.engines.base import Engine, Failure, Generated, GenerateRequest, Sampling, ScoreRequest
from cai.engines.build import EngineConfig, build_engine
from cai.engines.ray import RayConfig, RayEngine
from cai.errors import EngineError, InputError, MissingDependencyError
from cai.types import Message
from tests.engines.conformance import Conformance, by_id

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
WORDS = "the quick brown fox jumps over the lazy dog and thinks of it".split()


def config(model: Path, **given: Any) -> EngineConfig:
    return EngineConfig(kind="ray", model=str(model), dtype="float32", device="cpu", window=8, **given)


@pytest.fixture(scope="module")
def cluster(tiny_model_dir: Path) -> Iterator[RayEngine]:
    ray = pytest.importorskip("ray")
    engine = build_engine(config(tiny_model_dir, ray=RayConfig(workers=2)))
    assert isinstance(engine, RayEngine)
    yield engine
    engine.close()
    ray.shutdown()


class TestConformance(Conformance):
    context = 512
    many = 200

    @pytest.fixture
    def engine(self, cluster: RayEngine) -> Engine:
        return cluster


def requests(count: int) -> list[GenerateRequest]:
    return [
        GenerateRequest(
            id=str(n),
            prompt=(Message("user", " ".join(WORDS[: 1 + n % 13])),),
            seeds=(n, n + 1),
            sampling=Sampling(max_new_tokens=4 + n % 9),
        )
        for n in range(count)
    ]


def test_the_results_are_those_of_one_engine(cluster: RayEngine, tiny_model_dir: Path) -> None:
    one = build_engine(EngineConfig(model=str(tiny_model_dir), dtype="float32", device="cpu", window=8))
    assert cluster.model == one.model
    here, there = by_id(one.generate(requests(40))), by_id(cluster.generate(requests(40)))
    assert {key: result.completions for key, result in here.items()} == {
        key: result.completions for key, result in there.items()
    }
    scores = [ScoreRequest(id=str(n), prompt="yes", candidates=(WORDS[n], WORDS[-n])) for n in range(12)]
    assert by_id(one.score(scores)) == by_id(cluster.score(scores))


def test_both_workers_work(cluster: RayEngine) -> None:
    ray: Any = pytest.importorskip("ray")
    served = [ray.get(worker.about.remote())[0] for worker in cluster._workers]
    assert served == [cluster.model] * 2
    assert len(by_id(cluster.generate(requests(33)))) == 33


def test_hidden_states_come_through(cluster: RayEngine) -> None:
    assert cluster.layers >= 1
    asked = [ScoreRequest(id=str(n), prompt="yes", candidates=("no", "yes")) for n in range(3)]
    states = list(cluster.answer_states(asked, (1,)))
    assert sorted(state.id for state in states) == ["0", "1", "2"]
    assert states[0].states[0].shape[0] == 1


def test_the_stream_is_read_a_window_a_worker_ahead(cluster: RayEngine) -> None:
    taken = 0

    def source() -> Iterator[GenerateRequest]:
        nonlocal taken
        for request in requests(200):
            taken += 1
            yield request

    stream = cluster.generate(source())
    next(stream)
    assert taken <= 3 * 8
    stream.close()  # type: ignore[attr-defined]
    assert len(by_id(cluster.generate(requests(4)))) == 4


def test_a_worker_that_is_killed_is_replaced_and_its_window_asked_again(cluster: RayEngine) -> None:
    ray: Any = pytest.importorskip("ray")
    pids = ray.get([worker.__ray_call__.remote(lambda _: os.getpid()) for worker in cluster._workers])
    stream = cluster.generate(requests(64))
    found = [next(stream)]
    os.kill(pids[0], signal.SIGKILL)
    found.extend(stream)
    assert sorted(int(result.id) for result in found) == list(range(64))
    assert all(isinstance(result, Generated) for result in found)


def test_a_failed_request_is_a_result(cluster: RayEngine) -> None:
    [result] = cluster.generate([GenerateRequest(id="long", prompt="yes " * 2000)])
    assert isinstance(result, Failure)
    assert result.reason == "too_long"


def test_more_workers_than_the_cluster_has_room_for(cluster: RayEngine, tiny_model_dir: Path) -> None:
    with pytest.raises(InputError, match="3 workers need 3 CPU cores, the cluster has 2"):
        build_engine(config(tiny_model_dir, ray=RayConfig(workers=3)))


def test_a_model_that_can_not_be_loaded(cluster: RayEngine, tmp_path: Path) -> None:
    cluster.close()
    with pytest.raises(EngineError, match=r"no config\.json here"):
        build_engine(config(tmp_path, ray=RayConfig(workers=1)))


def test_without_ray_the_command_that_installs_it_is_told(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cai.engines.ray.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cai\[ray\]'"):
        RayEngine(config(tiny_model_dir))
