"""What is still to do: planned keys minus done keys, in windows that never change.

A local model's answer can depend, in its last bits, on which requests share a batch. So work is cut into windows by the
plan alone, never by what is done: a window with anything missing is asked again whole, and what is in the journal
already is kept. That is why a run that was killed ends with the same bytes as one that was not, on any number of
processes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from cai.errors import EngineError
from cai.records.journal import Journal
from cai.records.schema import Record
from cai.stopping import stop_if_asked

T = TypeVar("T")


@dataclass(frozen=True)
class Planned(Generic[T]):
    """One piece of work: the key its record will have, and what is needed to do it."""

    key: str
    work: T


def open_windows(
    plan: Sequence[Planned[T]], done: Callable[[str], bool], *, size: int, rank: int = 0, world: int = 1
) -> Iterator[Sequence[Planned[T]]]:
    """Yield this rank's windows of the plan that have a key not done yet.

    Window i belongs to rank i mod world. Raises ValueError when the plan names a key twice.
    """
    keys = {item.key for item in plan}
    if len(keys) != len(plan):
        raise ValueError(f"the plan of {len(plan)} items has only {len(keys)} different keys")
    for index, start in enumerate(range(0, len(plan), size)):
        window = plan[start : start + size]
        if index % world == rank and not all(done(item.key) for item in window):
            yield window


def fulfil(
    plan: Sequence[Planned[T]],
    journal: Journal,
    work: Callable[[Sequence[Planned[T]]], Iterable[Record]],
    *,
    window: int,
    rank: int = 0,
    world: int = 1,
    done_elsewhere: Callable[[str], bool] = lambda key: False,
    on_record: Callable[[Record], None] = lambda record: None,
) -> None:
    """Do what the plan still owes and journal each record as it comes.

    `work` gets a window and yields one record per item, in any order; `on_record` hears of each new one (progress).
    `done_elsewhere` tells keys that another rank's journal holds. Raises EngineError when the work leaves an item of a
    window without a record; what came is kept. Between windows it stops if that was asked for (`cai.stopping`).
    """

    def done(key: str) -> bool:
        return key in journal or done_elsewhere(key)

    for items in open_windows(plan, done, size=window, rank=rank, world=world):
        stop_if_asked()
        for record in work(items):
            if not done(record.key):
                journal.append(record)
                on_record(record)
        lost = [item.key for item in items if not done(item.key)]
        if lost:
            raise EngineError(f"{len(lost)} of {len(items)} requests came back with no result; run again to ask them")
