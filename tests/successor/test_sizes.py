import itertools
from pathlib import Path
from typing import Any, get_args

import pytest

from cai.records.loaders import PACKAGED, load_prompts, packaged_prompts
from cai.records.splits import split
from cai.successor.entries import ENTRIES
from cai.successor.plan import RunConfig, plan_run
from cai.successor.sizes import SIZES, Size

ORDER: tuple[Size, ...] = ("smoke", "demo", "full")


def test_every_size_is_there_and_speaks_of_stages_only() -> None:
    assert set(SIZES) == set(get_args(Size)) == set(ORDER)
    assert all(set(settings) == {"prompts", *ENTRIES} - {"grow"} for settings in SIZES.values())


@pytest.mark.parametrize("size", ORDER)
@pytest.mark.parametrize("rl", ["ppo", "dpo"])
def test_every_size_makes_a_valid_plan_and_every_setting_is_known(size: Size, rl: str, tmp_path: Path) -> None:
    config = RunConfig.model_validate({"out": tmp_path, "size": size, "rl": rl})
    plans = {plan.name: plan for plan in plan_run(config)}
    for name, settings in SIZES[size].items():
        if name in plans:
            said(settings, plans[name].config.to_plain())


def said(settings: dict[str, Any], resolved: dict[str, Any]) -> None:
    """What a size says is what the stage gets."""
    for key, value in settings.items():
        if isinstance(value, dict):
            said(value, resolved[key])
        else:
            assert resolved[key] == value, key


def test_a_larger_size_never_uses_less() -> None:
    def counts(size: Size) -> list[int]:
        prompts, generate = SIZES[size]["prompts"], SIZES[size]["generate"]
        held_out = prompts["held_out"]
        return [
            *(prompts[name] for name in ("red_team", "helpful", "label")),
            *(held_out[name] for name in ("red_team", "benign", "helpful")),
            generate["rounds"],
            generate["sampling"]["max_new_tokens"],
            SIZES[size]["ppo"]["steps"],
        ]

    for smaller, larger in itertools.pairwise(ORDER):
        assert all(a <= b for a, b in zip(counts(smaller), counts(larger), strict=True))


def test_the_full_size_uses_every_packaged_prompt() -> None:
    full = SIZES["full"]["prompts"]
    for name in PACKAGED:
        train, held_out = split(load_prompts([packaged_prompts(name)]))
        assert full["held_out"][name] >= len(held_out)
        assert full.get(name, len(train)) >= len(train)
