from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cai.generate.config import GenerateConfig
from cai.label.config import LabelConfig
from cai.records.config import PromptsConfig

STAGES = pytest.mark.parametrize("stage", [GenerateConfig, LabelConfig])


@STAGES
def test_both_stages_take_prompts_alike(stage: type[PromptsConfig]) -> None:
    own = stage.model_fields
    assert all(own[name].annotation == field.annotation for name, field in PromptsConfig.model_fields.items())


@STAGES
@pytest.mark.parametrize("shard", ["0/4", "5/4", "x", "1/0"])
def test_what_is_no_share_is_refused(stage: type[PromptsConfig], shard: str) -> None:
    given: dict[str, Any] = {"prompts": ["p.jsonl"], "out": Path("o")}
    with pytest.raises(ValidationError, match="no share of the work; write it as number/all"):
        stage.model_validate({**given, "shard": shard})
    assert stage.model_validate({**given, "shard": "3/16"}).shard == "3/16"
