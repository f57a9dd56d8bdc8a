import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cai.train.group_config import GRPOConfig, RLOOConfig


def test_the_two_differ_in_what_their_sources_say() -> None:
    grpo, rloo = (cls(out=Path("out"), prompts=[Path("p.jsonl")]) for cls in (GRPOConfig, RLOOConfig))
    assert (grpo.algorithm, grpo.generations, grpo.kl_coefficient) == ("grpo", 8, 0.0)
    assert (rloo.algorithm, rloo.generations, rloo.kl_coefficient) == ("rloo", 4, 0.05)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"generations": 1}, "generations"),
        ({"algorithm": "rloo"}, "algorithm"),
        ({"top_p": 0.9}, "top_p"),
        ({"max_new_tokens": 64, "max_length": 64}, "max_new_tokens"),
        ({"rewards": [{"kind": "checker", "rule": "json", "weight": 0}]}, "weight 0"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        GRPOConfig(**{"out": "out", "prompts": "p.jsonl", **changes})


def test_planning_loads_no_torch() -> None:
    code = "import sys, cai.train.group_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
