import pytest
from pydantic import ValidationError

from cai.generate.config import GenerateConfig


@pytest.mark.parametrize("given", [{"rounds": -1}, {"near_duplicates": 0.2}, {"keep": "first"}, {"windw": 3}])
def test_what_makes_no_sense_is_refused(given: dict[str, object]) -> None:
    GenerateConfig.model_validate({"prompts": ["p.jsonl"], "out": "out", "rounds": 1, "near_duplicates": None})
    with pytest.raises(ValidationError):
        GenerateConfig.model_validate({"prompts": ["p.jsonl"], "out": "out", **given})


def test_every_setting_says_what_it_is() -> None:
    plain = {"engine", "out", "seed", "drafts_per_prompt", "sampling"}
    assert {name for name, field in GenerateConfig.model_fields.items() if not field.description} <= plain
