from pathlib import Path

import pytest

from cai.generate.config import GenerateConfig
from cai.generate.plan import Job, jobs, window_of
from cai.records.loaders import PromptSet
from cai.records.schema import Prompt, PromptKind
from cai.records.shard import Shard, share
from cai.types import Message

COUNTS: dict[PromptKind, int] = {"red_team": 10, "benign": 3, "helpful": 5}


def config(**more: object) -> GenerateConfig:
    return GenerateConfig.model_validate({"prompts": ["p.jsonl"], "out": "out", "window": 4, "rounds": 2, **more})


def test_windows_cover_each_prompt_once() -> None:
    found = list(jobs(config(), COUNTS))
    assert [(job.kind, job.start, job.stop) for job in found] == [
        ("red_team", 0, 4),
        ("red_team", 4, 8),
        ("red_team", 8, 10),
        ("helpful", 0, 4),
        ("helpful", 4, 5),
    ]
    assert [job.texts(critique=True) for job in found] == [20, 20, 10, 8, 2]
    assert [job.texts(critique=False) for job in found] == [12, 12, 6, 8, 2]


@pytest.mark.parametrize(("of", "world"), [(1, 1), (3, 1), (1, 3), (2, 2), (7, 3)])
def test_shards_and_processes_share_all_windows(of: int, world: int) -> None:
    found: list[Job] = []
    for number in range(1, of + 1):
        for rank in range(world):
            found += share(jobs(config(), COUNTS), Shard(number, of), rank=rank, world=world)
    assert sorted(found, key=str) == sorted(jobs(config(), COUNTS), key=str)
    assert list(share(jobs(config(), COUNTS), None)) == list(jobs(config(), COUNTS))


def test_a_prompt_is_found_in_its_window() -> None:
    kinds = [kind for kind, count in COUNTS.items() for _ in range(count)]
    asked = [Prompt.of((Message("user", str(number)),), kind=kind) for number, kind in enumerate(kinds)]
    prompts = PromptSet(asked[::2] + asked[1::2])
    for number, job in enumerate(jobs(config(), prompts.counts)):
        for prompt in prompts.part(job.kind, job.start, job.stop):
            position = prompts.position(prompt.id)
            assert position is not None
            assert window_of(config(), prompts.counts, position) == number


def test_a_bad_share_is_refused_with_the_config(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no share of the work"):
        config(shard="17/16")
