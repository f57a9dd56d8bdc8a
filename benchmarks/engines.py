"""Sampling and scoring against the naive Transformers loop, on three workloads of this library.

Start: python benchmarks/engines.py [--quick] [--engine transformers] [--repeats 5] [--model embedded] [--server URL]

The naive loop is `generate` on left-padded static batches of 16 with the whole prompt every time, in the same type of
weights. Ours and the peer's alternate in one process; the ratio is that of the medians. Before anything is timed,
greedy texts in float32 must be equal. Every row writes as many tokens as it is told to (no end of turn), so both do
equal work.

- mixed: red-team prompts, answers of 16 to 256 tokens, drawn evenly
- critique: a shared beginning of 1,000 tokens, 150 own, 64 new
- scoring: a shared beginning of 1,000 tokens, 250 own, two candidates, both orders

The floor is the arithmetic that can't be left out (the shared part once, the vocabulary only where a token is drawn or
scored) at the rate of matrix products of those shapes, measured in the same run. Prints `name  ours  peer  ratio
target  PASS|FAIL` and exits with 1 when one fails. The targets are the default engine's; another one's ratios are
reported. `--server URL` measures a server that holds the same model under the name `--served`.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria, StoppingCriteriaList
from transformers.utils.logging import disable_progress_bar

import cai
from cai.engines.base import Engine, Failure, Generated, GenerateRequest, Sampling, Scored, ScoreRequest
from cai.engines.build import EngineConfig, build_engine
from cai.engines.embedded import resolve_model
from cai.engines.loading import pick_device, pick_dtype
from cai.engines.server import ServerConfig
from cai.records.loaders import load_prompts

PROMPTS = Path(cai.__file__).parent / "data" / "prompts"
BATCH = 16
TARGETS = {"mixed": 2.0, "critique": 4.0, "scoring": 4.5}


@dataclass(frozen=True)
class Job:
    """One prompt: its text, how much of it is shared (characters), and what is asked."""

    prompt: str
    shared: int
    new: int = 0


class Naive:
    """What most people write: static batches, the whole prompt every time."""

    def __init__(self, path: str, dtype: torch.dtype, device: torch.device) -> None:
        """Load the model."""
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
        self.model = model.to(device).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path, padding_side="left")
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def _run(self, batch: Sequence[Job], **options: Any) -> tuple[int, Any]:
        read = self.tokenizer([job.prompt for job in batch], return_tensors="pt", padding=True)
        read = read.to(self.model.device)
        with torch.no_grad():
            out = self.model.generate(**read, do_sample=False, return_dict_in_generate=True, **options)
        return read["input_ids"].shape[1], out

    def generate(self, jobs: Sequence[Job]) -> list[str]:
        """Return the greedy text of each job."""
        texts = []
        for start in range(0, len(jobs), BATCH):
            batch = jobs[start : start + BATCH]
            most = max(job.new for job in batch)
            width, out = self._run(
                batch,
                max_new_tokens=most,
                eos_token_id=None,
                pad_token_id=self.tokenizer.pad_token_id,
                stopping_criteria=StoppingCriteriaList([_Limits([job.new for job in batch])]),
            )
            for row, job in zip(out.sequences, batch, strict=True):
                texts.append(self.tokenizer.decode(row[width : width + job.new], skip_special_tokens=True))
        return texts

    def score(self, jobs: Sequence[Job], letters: Sequence[str]) -> list[list[float]]:
        """Return the log-probability of each letter after each prompt: one pass gives all of them."""
        ids = [self.tokenizer.encode(letter, add_special_tokens=False)[0] for letter in letters]
        scores = []
        for start in range(0, len(jobs), BATCH):
            _, out = self._run(jobs[start : start + BATCH], max_new_tokens=1, output_logits=True)
            scores.extend(out.logits[0].float().log_softmax(-1)[:, ids].tolist())
        return scores


class _Limits(StoppingCriteria):
    """Ends each row of a batch after its own number of tokens, as an end of turn would."""

    def __init__(self, limits: Sequence[int]) -> None:
        self._limits = torch.tensor(limits)
        self._steps = 0

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        self._steps += 1
        return (self._limits <= self._steps).to(input_ids.device)


class Ours:
    """The same jobs through an engine."""

    def __init__(self, engine: Engine) -> None:
        """Use an engine."""
        self.engine = engine

    def generate(self, jobs: Sequence[Job]) -> list[str]:
        """Return the greedy text of each job."""
        requests = [
            GenerateRequest(
                id=str(number),
                prompt=job.prompt,
                shared=job.shared,
                sampling=Sampling(temperature=0, max_new_tokens=job.new, min_new_tokens=job.new),
            )
            for number, job in enumerate(jobs)
        ]
        found = {result.id: result for result in self.engine.generate(requests)}
        return [_ok(found[str(number)], Generated).completions[0].text for number in range(len(jobs))]

    def score(self, jobs: Sequence[Job], letters: Sequence[str]) -> list[list[float]]:
        """Return the log-probability of each letter after each prompt."""
        requests = [
            ScoreRequest(id=str(number), prompt=job.prompt, shared=job.shared, candidates=tuple(letters))
            for number, job in enumerate(jobs)
        ]
        found = {result.id: result for result in self.engine.score(requests)}
        return [[score.total for score in _ok(found[str(n)], Scored).scores] for n in range(len(jobs))]


def _ok(result: Any, kind: type[Any]) -> Any:
    if isinstance(result, Failure):
        raise SystemExit(f"{result.id}: {result.reason}: {result.message}")
    assert isinstance(result, kind)
    return result


def workloads(tokenizer: Any, sizes: dict[str, int]) -> dict[str, list[Job]]:
    """Return the jobs of each workload, of the packaged prompts."""
    draw = random.Random(0)
    asked = [prompt.messages[0].content for prompt in load_prompts([PROMPTS / "red_team.jsonl"])]
    helpful = " ".join(prompt.messages[0].content for prompt in load_prompts([PROMPTS / "helpful.jsonl"]))
    pool = tokenizer.encode(helpful, add_special_tokens=False)

    def text(start: int, tokens: int) -> str:
        return str(tokenizer.decode(pool[start : start + tokens]))

    beginning = text(0, 1000)

    def shared(number: int, own: int, new: int) -> Job:
        begins = 1000 + (number * 37) % (len(pool) - 1300)
        return Job(f"{beginning}\n\n{text(begins, own)}", len(beginning), new)

    return {
        "mixed": [
            Job(f"Human: {asked[n % len(asked)]}\n\nAssistant:", 0, draw.randint(16, 256))
            for n in range(sizes["mixed"])
        ],
        "critique": [shared(n, 150, 64) for n in range(sizes["critique"])],
        "scoring": [shared(n, 250, 0) for n in range(2 * sizes["scoring"])],  # a pair in both orders: two prompts
    }


def floors(model: Any, tokenizer: Any, jobs: dict[str, list[Job]]) -> dict[str, float]:
    """Return the seconds that each workload's necessary arithmetic takes on this machine.

    Prompts are read at the rate of a product with 2,048 rows. Tokens are drawn as many rows at a time as there are
    prompts, and a product with so few rows is slower: reading the weights comes to bear.
    """
    config = model.config
    head = config.vocab_size * config.hidden_size
    body = sum(weight.numel() for weight in model.parameters()) - head
    wide = (config.hidden_size, config.intermediate_size)
    read_rate = _rate(model, 2048, *wide)
    found = {}
    for name, some in jobs.items():
        lengths = [len(tokenizer.encode(job.prompt)) for job in some]
        common = len(tokenizer.encode(some[0].prompt[: some[0].shared])) if some[0].shared else 0
        read = common + sum(length - common for length in lengths)
        drawn = sum(job.new for job in some)
        rows = len(some)
        body_rate, head_rate = _rate(model, rows, *wide), _rate(model, rows, config.hidden_size, config.vocab_size)
        found[name] = 2 * (read * body / read_rate + drawn * body / body_rate + (drawn or rows) * head / head_rate)
    return found


def _rate(model: Any, rows: int, inner: int, outer: int) -> float:
    """Return the operations per second of a product [rows, inner] @ [inner, outer], over weights not in any cache."""
    left = torch.randn(rows, inner, dtype=model.dtype, device=model.device)
    weights = [torch.randn(outer, inner, dtype=model.dtype, device=model.device) for _ in range(30)]

    def work() -> None:
        for weight in weights if outer < 10_000 else weights[:4]:
            torch.nn.functional.linear(left, weight)

    work()
    seconds = statistics.median(_timed(work) for _ in range(5))
    return 2 * rows * inner * outer * (30 if outer < 10_000 else 4) / seconds


def _seconds(runner: "Naive | Ours", name: str, jobs: Sequence[Job]) -> float:
    if name == "scoring":
        return _timed(lambda: runner.score(jobs, LETTERS))
    return _timed(lambda: runner.generate(jobs))


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _timed(work: Callable[[], Any]) -> float:
    _settle()
    start = time.perf_counter()
    work()
    _settle()
    return time.perf_counter() - start


def check_equal(path: str, device: torch.device, kind: str, jobs: dict[str, list[Job]]) -> bool:
    """Tell whether greedy texts are equal, and log-probabilities within 1e-3, in float32."""
    naive = Naive(path, torch.float32, device)
    ours = Ours(build_engine(EngineConfig(kind=kind, model=path, dtype="float32")))
    few = {name: some[:4] for name, some in jobs.items()}
    same = all(naive.generate(few[name]) == ours.generate(few[name]) for name in ("mixed", "critique"))
    pairs = zip(naive.score(few["scoring"], LETTERS), ours.score(few["scoring"], LETTERS), strict=True)
    gap = max(abs(one - other) for a, b in pairs for one, other in zip(a, b, strict=True))
    print(f"float32, greedy texts equal  {'yes' if same else 'NO'}  -  -  yes  {'PASS' if same else 'FAIL'}")
    print(f"float32, largest gap of a log-probability  {gap:.1e}  -  -  < 1e-03  {'PASS' if gap < 1e-3 else 'FAIL'}")
    return same and gap < 1e-3


LETTERS = (" A", " B")


def main() -> int:
    """Measure; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer prompts, one repeat")
    parser.add_argument("--engine", default="transformers")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--server", metavar="URL", help="an OpenAI-compatible server, such as http://localhost:8000/v1")
    parser.add_argument("--served", default="served", help="the model's name there")
    given = parser.parse_args()
    disable_progress_bar()
    sizes = dict.fromkeys(TARGETS, 16) if given.quick else {"mixed": 64, "critique": 32, "scoring": 16}
    path = resolve_model(given.model)
    device = pick_device("auto")
    dtype = pick_dtype("auto", device)
    naive = Naive(path, dtype, device)
    jobs = workloads(naive.tokenizer, sizes)
    least = floors(naive.model, naive.tokenizer, jobs)
    if given.server:
        server = ServerConfig(base_url=given.server, tokenizer=path)
        name, config, met = "openai", EngineConfig(kind="openai", model=given.served, server=server), True
        print("float32, greedy texts equal  left out: a server's type is its own")
    else:
        name, config = given.engine, EngineConfig(kind=given.engine, model=path)
        met = check_equal(path, device, name, jobs)
    ours = Ours(build_engine(config))
    print(f"{name}, {str(dtype).removeprefix('torch.')}, {device.type}, {torch.get_num_threads()} threads")
    for work_name, some in jobs.items():
        seconds: dict[str, list[float]] = {"ours": [], "peer": []}
        for _ in range(1 if given.quick else given.repeats):
            seconds["ours"].append(_seconds(ours, work_name, some))
            seconds["peer"].append(_seconds(naive, work_name, some))
        mine, theirs = (statistics.median(seconds[who]) for who in ("ours", "peer"))
        work = sum(job.new for job in some) or len(some)
        unit = "tokens/s" if work_name != "scoring" else "prompts/s"
        ratio = theirs / mine
        target, verdict = "-", "-"
        if name == "transformers":
            good = ratio >= TARGETS[work_name]
            met = met and good
            target, verdict = f">= {TARGETS[work_name]}x", "PASS" if good else "FAIL"
        print(
            f"{work_name}  {work / mine:.1f} {unit}  {work / theirs:.1f} {unit}  {ratio:.2f}x  {target}  {verdict}   "
            f"floor {least[work_name]:.1f} s, ours {mine:.1f} s, peer {theirs:.1f} s"
        )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
