import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cai.errors import EngineError
from cai.records.journal import Journal, rank_path, read_ranks
from cai.records.resume import Planned, fulfil, open_windows
from cai.records.schema import Record
from tests.records.samples import answer, draft, plan

Window = Sequence[Planned[int]]


def numbers(windows: Iterator[Window]) -> list[list[int]]:
    return [[item.work for item in window] for window in windows]


def test_windows_are_cut_by_the_plan_and_shared_out_by_rank() -> None:
    items = plan(10)
    assert numbers(open_windows(items, lambda key: False, size=4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert numbers(open_windows(items, lambda key: False, size=4, rank=0, world=2)) == [[0, 1, 2, 3], [8, 9]]
    assert numbers(open_windows(items, lambda key: False, size=4, rank=1, world=2)) == [[4, 5, 6, 7]]


def test_a_window_with_anything_missing_is_asked_again_whole() -> None:
    # An answer can depend in its last bits on its batch, so the batch must be the one of the undisturbed run.
    done = {draft(number).key for number in (0, 1, 2, 3, 4, 6)}
    assert numbers(open_windows(plan(10), done.__contains__, size=4)) == [[4, 5, 6, 7], [8, 9]]


def test_a_plan_that_names_work_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="the plan of 4 items has only 3 different keys"):
        list(open_windows([*plan(3), plan(1)[0]], lambda key: False, size=2))


def test_done_work_is_not_asked_and_what_a_window_had_is_kept(tmp_path: Path) -> None:
    asked: list[list[int]] = []
    heard: list[str] = []

    def work(items: Window) -> Iterator[Record]:
        asked.append([item.work for item in items])
        yield from answer(items)

    with Journal(tmp_path / "a.jsonl") as journal:
        fulfil(plan(5), journal, work, window=2)
        before = (tmp_path / "a.jsonl").read_bytes()
        asked.clear()
        fulfil(plan(7), journal, work, window=2, on_record=lambda record: heard.append(record.key))
    assert asked == [[4, 5], [6]]
    assert heard == [draft(5).key, draft(6).key], "what was there already is not told as new"
    assert (tmp_path / "a.jsonl").read_bytes().startswith(before)


def test_records_are_journalled_as_they_come_not_at_the_end_of_the_window(tmp_path: Path) -> None:
    def work(items: Window) -> Iterator[Record]:
        yield draft(items[0].work)
        raise EngineError("the engine died")

    with Journal(tmp_path / "a.jsonl") as journal:
        with pytest.raises(EngineError):
            fulfil(plan(4), journal, work, window=4)
        assert list(journal.records) == [draft(0).key]


def test_a_result_that_got_lost_is_noticed_and_the_others_are_kept(tmp_path: Path) -> None:
    with Journal(tmp_path / "a.jsonl") as journal:
        with pytest.raises(EngineError, match="1 of 3 requests came back with no result"):
            fulfil(plan(3), journal, lambda items: list(answer(items))[:-1], window=3)
        assert len(journal.records) == 2
        fulfil(plan(3), journal, answer, window=3)
        assert len(journal.records) == 3


def test_work_that_another_rank_has_done_is_not_owed(tmp_path: Path) -> None:
    with Journal(tmp_path / "a.jsonl") as journal:
        elsewhere = {draft(0).key, draft(1).key}
        fulfil(plan(4), journal, answer, window=2, done_elsewhere=elsewhere.__contains__)
        assert list(journal.records) == [draft(2).key, draft(3).key]


@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_ranks_makes_the_same_records(tmp_path: Path, world: int) -> None:
    for count in (1, world):
        for rank in range(count):
            with Journal(rank_path(tmp_path / str(count), "drafts", rank)) as journal:
                fulfil(plan(50), journal, answer, window=4, rank=rank, world=count)
                assert len(journal.records) < 50 or count == 1
    alone, shared = (read_ranks(tmp_path / str(count), "drafts") for count in (1, world))
    assert {key: record.id for key, record in alone.items()} == {key: record.id for key, record in shared.items()}
    assert len(alone) == 50


WORKER = """
import sys, time
from pathlib import Path
from cai.records.journal import Journal
from cai.records.resume import fulfil
from tests.records.samples import answer, plan

def slowly(items):
    for record in answer(items):
        time.sleep(0.002)
        yield record

with Journal(Path(sys.argv[1])) as journal:
    print("ready", flush=True)
    fulfil(plan(200), journal, slowly, window=8)
"""


def start_worker(path: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert worker.stdout
    assert worker.stdout.readline() == "ready\n"
    worker.stdout.close()
    return worker


def test_killed_at_twenty_moments_the_journal_ends_as_if_it_had_been_left_alone(tmp_path: Path) -> None:
    with Journal(tmp_path / "undisturbed.jsonl") as journal:
        fulfil(plan(200), journal, answer, window=8)
    path = tmp_path / "killed.jsonl"
    moments = random.Random(2)
    sizes: set[int] = set()
    for _ in range(20):
        worker = start_worker(path)
        time.sleep(moments.uniform(0, 0.06))
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        sizes.add(path.read_bytes().count(b"\n"))
    assert len(sizes - {0, 200}) >= 5, "the kills came too early or too late to tell anything"
    assert start_worker(path).wait(timeout=60) == 0
    same = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (path, tmp_path / "undisturbed.jsonl")]
    assert same[0] == same[1]
