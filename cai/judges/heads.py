"""The heads of a preference model: several scores of one answer, such as harmless and helpful, over one trunk.

They are the rows of a sequence classifier's score layer, and their names are its config's `id2label`: a saved model
loads with plain Transformers, and says what its scores are. How much each counts is decided where they are used (as in
ArmoRM: Wang et al. 2024, arXiv 2406.12845): by a sum of rewards, or by an ensemble.
"""

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn


def is_classifier(config: Any) -> bool:
    """Tell whether a model's config is that of a sequence classifier."""
    return "SequenceClassification" in str(config.architectures)


def heads_of(config: Any) -> tuple[str, ...]:
    """Return the names of a classifier's scores, in their order; none where they have but Transformers' own."""
    names = tuple(str(config.id2label[place]) for place in range(config.num_labels))
    return () if names == tuple(f"LABEL_{place}" for place in range(len(names))) else names


def labels_of(heads: Sequence[str]) -> dict[str, Any]:
    """Return what a classifier's config is told so that it has these heads; one score without a name for none.

    >>> labels_of(["harmless", "helpful"])
    {'id2label': {0: 'harmless', 1: 'helpful'}, 'label2id': {'harmless': 0, 'helpful': 1}}
    """
    if not heads:
        return {"num_labels": 1}
    return {"id2label": dict(enumerate(heads)), "label2id": {name: place for place, name in enumerate(heads)}}


def cut_to(model: Any, head: str) -> Any:
    """Return a classifier with this head alone as its score; all its other weights are those of the one given."""
    place, whole = heads_of(model.config).index(head), model.score
    row = nn.Linear(whole.in_features, 1, bias=whole.bias is not None, device="meta")
    for name, weight in whole.named_parameters():
        setattr(row, name, nn.Parameter(weight.detach()[place : place + 1].clone()))
    cut = copy.copy(model)
    cut._modules = {**model._modules, "score": row.train(whole.training)}
    cut.config = copy.deepcopy(model.config)
    for name, value in labels_of([head]).items():
        setattr(cut.config, name, value)
    cut.num_labels = 1
    return cut
