"""Settings that belong together, and those that can't."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cai.config import load_config
from cai.errors import InputError
from cai.label.config import LabelConfig, PairsConfig


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"kind": "models", "other": {"model": "b"}},
        {"kind": "revisions", "run": "runs/generate"},
        {"kind": "best_of", "n": 8},
        {"kind": "contrast"},
        {"kind": "contrast", "certainty": 0.9},
    ],
)
def test_each_kind_takes_its_own_settings_and_reads_back(given: dict[str, Any]) -> None:
    config = PairsConfig.model_validate(given)
    assert PairsConfig.model_validate(config.to_plain()) == config


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "models"}, "pairs of the kind 'models' need 'other'; add it"),
        ({"kind": "revisions"}, "pairs of the kind 'revisions' need 'run'; add it"),
        ({"n": 8}, "'n' is of pairs of the kind 'best_of', not 'samples'; remove it"),
        ({"kind": "best_of", "certainty": 0.9}, "'certainty' is of pairs of the kind 'contrast', not 'best_of'"),
        ({"kind": "contrast", "certainty": 0.5}, "greater than 0.5"),
        ({"kind": "best_of", "n": 2}, "greater than or equal to 3"),
    ],
)
def test_what_does_not_belong_together_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PairsConfig.model_validate(given)


@pytest.mark.parametrize(
    "more",
    [{"principles_per_label": 2}, {"learned_weights": "w.json"}, {"floor": {"on": ["p.jsonl"]}}],
)
def test_a_label_by_construction_leaves_no_judge_to_set(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="no judge is asked"):
        LabelConfig.model_validate(
            {"prompts": ["p"], "out": "o", "pairs": {"kind": "contrast", "certainty": 0.9}, **more}
        )


def test_the_place_of_a_wrong_setting_is_told(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("prompts: [p.jsonl]\nout: o\npairs:\n  kind: best\n")
    with pytest.raises(InputError, match=r"c\.yaml:4:9: pairs\.kind: .*; did you mean 'best_of'\?"):
        load_config(LabelConfig, path)
    with pytest.raises(InputError, match=r"pairs\.kind=models: pairs: .*need 'other'; add it"):
        load_config(LabelConfig, None, ["prompts=[p]", "out=o", "pairs.kind=models"])
