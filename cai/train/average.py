"""Several trained models as one of the same size: the mean of their weights.

Models that were trained from one start on like data lie in one basin, and the mean of their weights does as well as
their ensemble at the price of one (Wortsman et al. 2022, arXiv 2203.05482); for preference models it is the more robust
to wrong labels and to answers unlike those in the data (Ramé et al. 2024, arXiv 2401.12187). It holds for one start
only: the score heads, too, must begin alike (`seed` makes them). The mean of models from different starts is noise.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from cai.engines.embedded import resolve_model
from cai.engines.loading import read_tokenizer, readable, whole
from cai.errors import InputError, Problem
from cai.judges.heads import heads_of, is_classifier
from cai.train.common import save_model
from cai.train.made_under import constitutions_of


def average_models(folders: Sequence[str | Path], out: Path, *, shares: Sequence[float] = ()) -> None:
    """Save the mean of several models' weights, by equal or by given shares, in a folder that appears whole.

    The sum is taken in float64 and saved in float32; two models are in memory at once. The tokenizer is the first
    model's. Raises InputError, naming the weight, when the models are not of one shape; ValueError for shares that
    don't add up to 1.
    """
    if len(folders) < 2:
        raise InputError(Problem("folders", 0, 0, f"{len(folders)} to take the mean of", "name at least two models"))
    shares = shares or [1 / len(folders)] * len(folders)
    if len(shares) != len(folders) or not math.isclose(sum(shares), 1.0, abs_tol=1e-6) or min(shares) < 0:
        raise ValueError(f"shares {list(shares)} for {len(folders)} models; they must be as many and add up to 1")
    paths = [resolve_model(str(folder)) for folder in folders]
    _same_heads(paths)
    first = _load(paths[0])
    mean: dict[str, Tensor] = {}
    for path, share in zip(paths, shares, strict=True):
        weights = (first if path == paths[0] else _load(path)).state_dict()
        _same_shapes(paths[0], first.state_dict(), path, weights)
        for name, value in weights.items():
            if value.is_floating_point():
                mean[name] = mean.get(name, 0.0) + share * value.double()
    first.load_state_dict({name: value.float() for name, value in mean.items()}, strict=False)
    tokenizer = read_tokenizer(paths[0])
    save_model(first, tokenizer, out, constitutions=constitutions_of(models=paths))


def _load(path: str) -> Any:
    with readable(path):
        scores = is_classifier(AutoConfig.from_pretrained(path))
        auto: Any = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
        loaded = auto.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    return whole(path, loaded)


def _same_heads(paths: Sequence[str]) -> None:
    """Raise InputError for each preference model whose heads are not the first one's, in their order."""
    wanted, *others = (", ".join(heads_of(AutoConfig.from_pretrained(path))) or "without names" for path in paths)
    fix = "take the mean of models that were trained with the same 'heads'"
    problems = [
        Problem(path, 0, 0, f"its heads are {found}, but {wanted} in {paths[0]}", fix)
        for path, found in zip(paths[1:], others, strict=True)
        if found != wanted
    ]
    if problems:
        raise InputError(problems)


def _same_shapes(first: str, wanted: Mapping[str, Tensor], other: str, found: Mapping[str, Tensor]) -> None:
    """Raise InputError for each weight that one of two models lacks, or has in another shape."""
    problems = []
    for name in sorted({*wanted, *found}):
        ours, theirs = (list(weights[name].shape) if name in weights else None for weights in (wanted, found))
        if ours != theirs:
            problem = f"{name} is {theirs or 'missing'}, but {ours or 'missing'} in {first}"
            problems.append(Problem(other, 0, 0, problem, "take the mean of models that were trained from one start"))
    if problems:
        raise InputError(problems)
