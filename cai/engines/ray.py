"""Many workers on one machine or on a cluster, each with an engine of its own, behind the same contract.

The workers are Ray actors that load their model once and keep it; the stream of requests is cut into windows, and
whoever is idle gets the next. A window is the same requests whoever takes it, and a sample's text depends on its own
seed, so the number of workers changes the order in which results arrive and nothing else. (Ray Data, which starts its
workers anew for each data set, would load the models at every call.)

A worker that dies with its node is started again elsewhere, and its window is asked again.
"""

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from importlib import import_module, util
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from cai.engines.base import Failure, Generated, GenerateRequest, Scored, ScoreRequest
from cai.errors import CaiError, EngineError, InputError, MissingDependencyError, Problem

if TYPE_CHECKING:
    from cai.engines.build import EngineConfig

RESTARTS = 3
"""How often a worker that died is started again, and its window asked again."""


class RayConfig(BaseModel):
    """A cluster, and the workers on it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    workers: int = Field(default=2, ge=1)
    """Engines at work at once."""
    engine: str = "transformers"
    """Which engine each worker runs: ``transformers`` or ``vllm``."""
    address: str | None = None
    """A cluster's address, or ``auto`` for the one this machine belongs to; None starts one on this machine."""
    cpus: float = Field(default=1.0, gt=0.0)
    """CPU cores of a worker."""
    gpus: float = Field(default=0.0, ge=0.0)
    """GPUs of a worker."""


class RayEngine:
    """Samples and scores with engines on many workers."""

    name = "ray"

    def __init__(self, config: "EngineConfig") -> None:
        """Start the workers; each loads the config's model.

        Raises MissingDependencyError without Ray, InputError for a cluster that is too small, and EngineError when a
        worker can't start or two of them hold different weights.
        """
        if util.find_spec("ray") is None:
            raise MissingDependencyError("ray", "ray")
        given = config.ray or RayConfig()
        self._ray = _started(given)
        self._window = config.window
        inner = config.model_copy(update={"kind": given.engine, "ray": None}).model_dump_json()
        worker = self._ray.remote(_Worker)
        self._workers = [
            worker.options(
                num_cpus=given.cpus, num_gpus=given.gpus, max_restarts=RESTARTS, max_task_retries=RESTARTS
            ).remote(inner, max(1, int(given.cpus)))
            for _ in range(given.workers)
        ]
        told = self._get([each.about.remote() for each in self._workers])
        self._layers: int | None
        models = sorted({model for model, _, _ in told})
        if len(models) > 1:
            raise EngineError(f"the workers hold different weights: {', '.join(models)}")
        self.model, self._layers, error = told[0]
        if error:
            raise EngineError(error)

    def generate(self, requests: Iterable[GenerateRequest]) -> Iterator[Generated | Failure]:
        """Yield one result per request, as the windows they are in are finished."""
        return self._spread("generate", requests)

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Scored | Failure]:
        """Yield one result per request, as the windows they are in are finished."""
        return self._spread("score", requests)

    def answer_states(self, requests: Iterable[ScoreRequest], layers: tuple[int, ...]) -> Iterator[Any]:
        """Yield the hidden states that the workers' engines show, where they do (`TransformersEngine`)."""
        return self._spread("answer_states", requests, layers)

    @property
    def layers(self) -> int:
        """How many layers the model has; raises EngineError where the workers' engine does not say."""
        if self._layers is None:
            raise EngineError("the workers' engine shows no hidden states")
        return self._layers

    def close(self) -> None:
        """End the workers. A cluster that was there before goes on."""
        for worker in self._workers:
            self._ray.kill(worker)
        self._workers = []

    def _spread(self, verb: str, requests: Iterable[Any], *given: Any) -> Iterator[Any]:
        source = iter(requests)
        idle, busy = deque(self._workers), dict[Any, Any]()
        try:
            while True:
                while idle and (window := list(itertools.islice(source, self._window))):
                    worker = idle.popleft()
                    busy[worker.run.remote(verb, window, *given)] = worker
                if not busy:
                    return
                (ready, *_), _ = self._ray.wait(list(busy), num_returns=1)
                results, error = self._get(ready)
                idle.append(busy.pop(ready))
                yield from results
                if error:
                    raise EngineError(error)
        finally:
            for waiting in busy:
                self._ray.cancel(waiting, force=False)

    def _get(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            raise EngineError(f"a worker failed: {str(error).strip().splitlines()[-1]}") from error


class _Worker:
    """An engine in a process of its own. What it says of errors is text: exceptions don't all survive the way."""

    def __init__(self, config: str, threads: int) -> None:
        from cai.processes import quiet_libraries

        quiet_libraries()
        import torch

        from cai.engines.build import EngineConfig, build_engine

        torch.set_num_threads(threads)
        self._engine: Any = None
        self._error = ""
        try:
            self._engine = build_engine(EngineConfig.model_validate_json(config))
        except CaiError as error:
            self._error = str(error)

    def about(self) -> tuple[str, int | None, str]:
        """Return the model's revision, its layers where the engine tells, and why there is no engine."""
        if self._engine is None:
            return "", None, self._error
        return self._engine.model, getattr(self._engine, "layers", None), ""

    def run(self, verb: str, requests: list[Any], *given: Any) -> tuple[list[Any], str]:
        """Return the results of a window, and the error that ended it early, if one did."""
        results: list[Any] = []
        try:
            results.extend(getattr(self._engine, verb)(requests, *given))
        except CaiError as error:
            return results, str(error)
        return results, ""


def _started(given: RayConfig) -> Any:
    """Return Ray, connected to the cluster or with one of its own on this machine."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray: Any = import_module("ray")
    if not ray.is_initialized():
        quiet = {"log_to_driver": False, "logging_level": "error"}
        try:
            if given.address is None:
                wanted = {"num_cpus": max(1, round(given.workers * given.cpus)), "_node_ip_address": "127.0.0.1"}
                ray.init("local", include_dashboard=False, **wanted, **quiet)
            else:
                ray.init(given.address, **quiet)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise EngineError(f"no Ray cluster at {given.address or 'this machine'}: {error}") from error
    have = ray.cluster_resources()
    for name, unit, each in (("CPU", "CPU cores", given.cpus), ("GPU", "GPUs", given.gpus)):
        if given.workers * each > have.get(name, 0.0) + 1e-6:
            needed = f"{given.workers} workers need {given.workers * each:g} {unit}"
            problem = f"{needed}, the cluster has {have.get(name, 0):g}"
            raise InputError(Problem("engine.ray", 0, 0, problem, "ask for fewer workers, or for less for each"))
    return ray


def from_config(config: "EngineConfig") -> RayEngine:
    """Build the engine for `cai.engines.build`."""
    return RayEngine(config)
