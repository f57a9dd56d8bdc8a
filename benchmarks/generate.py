"""Drafts, critiques and revisions per second, against the alignment-handbook's CAI recipe and distilabel.

Start: python -m benchmarks.generate [--quick] [--repeats 3] [--model embedded]

Each packaged red-team prompt gets a draft, a critique and a revision under the constitution `harmless`.

- ours: `run_generate` whole, from the prompt file to `sft.jsonl`, with its journals and checks; the model is loaded
  before
- handbook: the recipe sends chats to a server; without one, its equivalent on a machine is `transformers.generate` on
  left-padded static batches of 16, with the whole prompt, few-shot examples included, every time
- distilabel: its TransformersLLM hands prompts to a text-generation pipeline without a batch size, so they are answered
  one by one

distilabel asks for transformers 4, so it can't be installed beside this library: what runs is an equivalent of its
loop. Few-shot examples, templates, principles, the most tokens of each step, temperature 1, the end of turn and the
type of the weights (bfloat16) are the same for all three, which alternate in one process; ratios are those of medians.
Ours takes 128 prompts, one default window; a peer's rate does not depend on their number, so the handbook's loop takes
the first 32 and distilabel's the first 4. Texts are sampled, so lengths differ: tokens per second stand beside the
rate, and so does how many texts our checks dropped; a peer checks nothing. Prints
`name  ours  peer  ratio  target  PASS|FAIL` and exits with 1 when one fails.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from benchmarks.engines import BATCH, Naive
from cai.constitution import Constitution, draw, load_constitution
from cai.engines.base import Engine
from cai.engines.build import EngineConfig, SamplingConfig, build_engine
from cai.engines.embedded import resolve_model
from cai.engines.loading import pick_device
from cai.engines.render import Renderer
from cai.generate import pipeline
from cai.generate.config import GenerateConfig
from cai.generate.form import Asked, form_of
from cai.records.journal import read_journal
from cai.records.loaders import load_prompts, packaged_prompts
from cai.records.schema import Dropped, Prompt, Written
from cai.storage import seed_from

TARGET = 3.0


@dataclass(frozen=True)
class Made:
    """What a run came to."""

    texts: int
    dropped: int
    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        """Texts per second."""
        return self.texts / self.seconds


class Peer(Naive):
    """The three steps by `generate`, so many prompts at a time, each with all that stands before it."""

    def __init__(self, path: str, device: torch.device, batch: int) -> None:
        """Load the model."""
        super().__init__(path, torch.bfloat16, device)
        self._batch, self._renderer = batch, Renderer(self.tokenizer)
        self.tokens = 0

    def answer(self, asked: Sequence[Asked], most: int) -> list[str]:
        """Sample an answer to each at temperature 1, up to the end of its turn."""
        texts = []
        for start in range(0, len(asked), self._batch):
            rows = [self._renderer.prompt_ids(each.prompt) for each in asked[start : start + self._batch]]
            read = self.tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(self.model.device)
            width = read["input_ids"].shape[1]
            with torch.no_grad():
                out = self.model.generate(
                    **read,
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    max_new_tokens=most,
                    pad_token_id=self.tokenizer.pad_token_id,
                )
            for row in out[:, width:]:
                text = self.tokenizer.decode(row, skip_special_tokens=True)
                self.tokens += len(self.tokenizer.encode(text, add_special_tokens=False))
                texts.append(text.strip())
        return texts

    def run(self, config: GenerateConfig, constitution: Constitution, engine: Engine, prompts: list[Prompt]) -> Made:
        """Make a chain of every prompt; `engine` only says how its model is spoken to."""
        form, self.tokens, start = form_of(config.format, constitution, engine), 0, time.perf_counter()
        drawn = [draw(constitution, seed_from(config.seed, prompt.id)) for prompt in prompts]
        most = config.sampling.max_new_tokens
        drafts = self.answer([form.draft(prompt.messages) for prompt in prompts], most)
        three = list(zip(drawn, prompts, drafts, strict=True))
        asked = [form.critique(principle, prompt.messages, draft) for principle, prompt, draft in three]
        critiques = self.answer(asked, config.critique_tokens)
        four = zip(three, critiques, strict=True)
        self.answer([form.revision(p, prompt.messages, d, c) for (p, prompt, d), c in four], most)
        return Made(3 * len(prompts), 0, self.tokens, time.perf_counter() - start)


def ours(config: GenerateConfig, tokenizer: Any) -> Made:
    """Run the stage; count what it wrote."""
    start = time.perf_counter()
    pipeline.run_generate(config)
    seconds = time.perf_counter() - start
    texts = dropped = tokens = 0
    for name in ("drafts", "critiques", "revisions"):
        for record in read_journal(config.out / f"{name}.jsonl"):
            if isinstance(record, Written | Dropped):
                texts += 1
                dropped += isinstance(record, Dropped)
                tokens += len(tokenizer.encode(record.text, add_special_tokens=False))
    return Made(texts, dropped, tokens, seconds)


def report(name: str, mine: Sequence[Made], theirs: Sequence[Made]) -> bool:
    """Print a peer's line; tell whether the target is met."""
    rates = [statistics.median(made.rate for made in some) for some in (mine, theirs)]
    speeds = [statistics.median(made.tokens / made.seconds for made in some) for some in (mine, theirs)]
    ratio = rates[0] / rates[1]
    good = ratio >= TARGET
    print(
        f"{name}  {rates[0]:.2f} texts/s  {rates[1]:.2f} texts/s  {ratio:.2f}x  >= {TARGET}x  "
        f"{'PASS' if good else 'FAIL'}   ours {speeds[0]:.0f} tokens/s, peer {speeds[1]:.0f} tokens/s; of ours, checks "
        f"dropped {sum(made.dropped for made in mine)} of {sum(made.texts for made in mine)} texts",
        flush=True,
    )
    return good


def main() -> int:
    """Measure; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 prompts, short answers, one repeat: no measurement")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    disable_progress_bar()
    count, batched, single, tokens, repeats = (4, 4, 2, 24, 1) if given.quick else (128, 32, 4, 128, given.repeats)
    path = resolve_model(given.model)
    device = pick_device("auto")
    engine = build_engine(EngineConfig(model=path, dtype="bfloat16"))
    pipeline.build_engine = lambda config: engine  # loaded once, as the peers' models are
    peers = {"handbook": Peer(path, device, BATCH), "distilabel": Peer(path, device, 1)}
    constitution = load_constitution("harmless")
    lines = packaged_prompts("red_team").read_text("utf-8").splitlines(keepends=True)[:count]
    found: dict[str, list[Made]] = {name: [] for name in ("ours", *peers)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.jsonl"
        file.write_text("".join(lines))
        prompts = load_prompts([file])
        for repeat in range(repeats):
            config = GenerateConfig(
                prompts=[file],
                out=Path(folder) / f"out-{repeat}",
                seed=repeat,
                rounds=1,
                sampling=SamplingConfig(max_new_tokens=tokens),
                critique_tokens=tokens,
            )
            found["ours"].append(ours(config, peers["handbook"].tokenizer))
            seen = [f"ours {found['ours'][-1].rate:.2f}"]
            for name, peer in peers.items():
                some = prompts[: batched if name == "handbook" else single]
                found[name].append(peer.run(config, constitution, engine, some))
                seen.append(f"{name} {found[name][-1].rate:.2f}")
            print(f"alternation {repeat + 1}: texts/s {', '.join(seen)}", flush=True)
    print(f"bfloat16, {device.type}, {torch.get_num_threads()} threads, {count} prompts, {tokens} new tokens at most")
    met = [report(name, found["ours"], found[name]) for name in peers]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
