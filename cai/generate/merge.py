"""Shards of `cai generate` joined: what comes out is, byte for byte, what one process would have made of all of it."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cai.config import load_config
from cai.engines.spending import NAME as COSTS
from cai.generate.config import GenerateConfig
from cai.generate.finish import JOURNALS, finish
from cai.generate.plan import window_of
from cai.records.inputs import check_unchanged, hold_inputs
from cai.records.loaders import PromptSet
from cai.records.merge import Windows, join_files, one_run, shard_folders


def merge_shards(folders: Sequence[Path], out: Path, *, prompts: Sequence[Path] = ()) -> None:
    """Join the folders of all shards of a run, or those below a folder, and finish the whole in `out`.

    `prompts` says where the prompt files are now; by default where the shards found them. Raises InputError when a
    shard is missing, not finished, or of another run.
    """
    found = shard_folders(folders)
    config, inputs = one_run(
        found,
        partial(load_config, GenerateConfig),
        lambda own: [own.keep, own.near_duplicates, own.train_on_thinking, own.keep_going],
    )
    paths = list(prompts) or config.prompts
    config = config.model_copy(update={"out": out, "shard": None, "prompts": paths})
    check_unchanged(paths, inputs["prompts"])
    rejected = out / "rejected.jsonl" if config.keep_going else None
    asked = PromptSet.load(paths, held_out=config.held_out, rejected=rejected)
    hold_inputs(out, inputs)
    Windows(found, JOURNALS, asked, partial(window_of, config, asked.counts)).write(out)
    join_files(found, COSTS, out)
    finish(config, asked)
