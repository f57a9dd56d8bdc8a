"""Shards of `cai label` joined: what comes out is, byte for byte, what one process would have made of all of it."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cai.config import load_config
from cai.engines.spending import NAME as COSTS
from cai.label.config import LabelConfig
from cai.label.pipeline import JOURNALS, finish
from cai.records.inputs import check_unchanged, hold_inputs
from cai.records.loaders import PromptSet
from cai.records.merge import Windows, join_files, one_run, shard_folders
from cai.storage import AtomicFile

OF_THE_JUDGE = ("direction.safetensors", "judge.json", "judge_audit.json", "judge_attacks.json")
"""Files that every shard makes alike: what its judge learned, and how it did."""


def merge_labels(folders: Sequence[Path], out: Path, *, prompts: Sequence[Path] = ()) -> None:
    """Join the folders of all shards of a run, or those below a folder, and finish the whole in `out`.

    `prompts` says where the prompt files are now; by default where the shards found them. Raises InputError when a
    shard is missing, not finished, or of another run.
    """
    found = shard_folders(folders)
    config, inputs = one_run(found, partial(load_config, LabelConfig), lambda own: [own.keep_going, own.floor])
    paths = list(prompts) or config.prompts
    config = config.model_copy(update={"out": out, "shard": None, "prompts": paths})
    check_unchanged(paths, inputs["prompts"])
    rejected = out / "rejected.jsonl" if config.keep_going else None
    asked = PromptSet.load(paths, held_out=config.held_out, rejected=rejected)
    hold_inputs(out, inputs)
    windows = Windows(found, JOURNALS, asked, lambda position: position.place // config.window)
    # Two models answer one after the other: all prompts the first, then all the second.
    windows.write(out, in_turns={"responses"} if config.pairs.kind == "models" else ())
    join_files(found, COSTS, out)
    for name in OF_THE_JUDGE:
        if (found[0] / name).is_file():
            with AtomicFile(out / name) as file:
                file.write((found[0] / name).read_bytes())
    name, model = inputs["models"][-1]
    finish(config, asked, judge=(name, model), constitution=inputs["constitution"])
