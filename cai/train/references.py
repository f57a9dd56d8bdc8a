"""The reference's log-probabilities of the answers: computed once and kept by content, or at every step.

What is kept is keyed by the model's fingerprint, the precision, and the ids of the prompt and both answers, so that it
serves another epoch, another start and another run. A pair is computed alone: what other pairs a run has, and in which
order they come, changes no bit.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object

from cai.engines.embedded import cache_folder
from cai.errors import TrainingError
from cai.processes import is_main, rank, wait_for_all, world
from cai.progress import Progress
from cai.storage import append_whole, digest, storing
from cai.train.data import Pair
from cai.train.packing import pack_tokens
from cai.train.readout import answer_sums, evaluating, placed

CHUNK = 32
"""Pairs per process between two writes: what a kill costs."""

Sums = tuple[float, float]
"""The log-probability of the chosen answer and of the rejected one, in nats."""


def content_key(pair: Pair) -> str:
    """Return what tells a pair's ids from any others, whatever the file and line."""
    return digest([pair.chosen.prompt, pair.chosen.answer, pair.rejected.answer])


def kept_sums(path: Path) -> dict[str, Sums]:
    """Return what a file of kept sums holds, by content; torn and foreign lines are left out."""
    found: dict[str, Sums] = {}
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                key, chosen, rejected = json.loads(line)
                found[key] = (float(chosen), float(rejected))
            except (ValueError, TypeError):
                continue
    return found


def cache_path(fingerprint: str, *, bf16: bool) -> Path:
    """Return the file that keeps a model's sums."""
    return cache_folder() / "references" / f"{digest([fingerprint, bf16, torch.__version__])[:32]}.jsonl"


def reference_sums(load: Callable[[], Any], pairs: Sequence[Pair], path: Path, *, bf16: bool) -> dict[str, Sums]:
    """Return the sums of all pairs, by content; `load` gives the model, and is called if any are not in the file yet.

    The processes share the work, and the first one writes.
    """
    known = kept_sums(path)
    owed = list({key: pair for pair in pairs if (key := content_key(pair)) not in known}.items())
    wait_for_all()  # all have read before one writes
    if not owed:
        return known
    model = load()
    bar = Progress("reference", len(pairs), "pairs", done=len(pairs) - len(owed), quiet=not is_main())
    for start in range(0, len(owed), CHUNK * world()):
        chunk = owed[start : start + CHUNK * world()]
        mine = [(key, *pair_sums(model, pair, bf16=bf16)) for key, pair in chunk[rank() :: world()]]
        found = gather_object(mine) if world() > 1 else mine
        _check_finite(found, dict(chunk))
        known.update({key: (chosen, rejected) for key, chosen, rejected in found})
        if is_main():
            _keep(path, found)
        bar.advance(len(chunk))
    bar.close()
    return known


def _check_finite(found: Sequence[tuple[str, float, float]], pairs: Mapping[str, Pair]) -> None:
    """Raise TrainingError, in every process alike, for sums that are no numbers: kept, they would stay wrong."""
    broken = [pairs[key].chosen.name for key, *sums in found if not all(map(math.isfinite, sums))]
    if broken:
        raise TrainingError(
            f"the reference's log-probabilities of {len(broken)} pairs are not finite ({', '.join(broken[:5])}); look "
            "at these rows, or train with precision fp32"
        )


def _keep(path: Path, found: Sequence[tuple[str, float, float]]) -> None:
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            # A line of its own first: the one before may be torn.
            append_whole(file, b"\n" + b"".join(json.dumps(row).encode() + b"\n" for row in found))


@torch.no_grad()
def pair_sums(model: Any, pair: Pair, *, bf16: bool) -> Sums:
    """Return a model's log-probabilities of a pair's answers, in the precision that the policy computes in."""
    with evaluating(model), torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bf16):
        chosen, rejected = answer_sums(model, placed(pack_tokens([pair.row]), model.device)).tolist()
    return chosen, rejected


def with_references(batch: dict[str, Any], pairs: Sequence[Pair], known: Mapping[str, Sums]) -> dict[str, Any]:
    """Return a batch with the reference's log-probabilities of its pairs beside it, [B, 2]."""
    return {**batch, "reference": torch.tensor([known[content_key(pair)] for pair in pairs])}
