import io

import pytest

from cai import progress as module
from cai.progress import EVERY_S, REDRAW_S, Progress, Tally, clock, progress
from cai.types import Usage


class Screen(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def screen(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> Screen:
    made = Screen(terminal=terminal)
    monkeypatch.setattr("sys.stderr", made)
    return made


def test_the_line_has_the_count_the_rate_and_the_time_left(time: Clock) -> None:
    bar = Progress("drafts", 64, "prompts")
    time.now += 8
    bar.advance(16, note="loss 1.2")
    assert bar.line() == "drafts  16/64 prompts  2.0/s  24 s left  loss 1.2"


def test_the_first_moment_has_no_rate(time: Clock) -> None:
    bar = Progress("drafts", 64, "prompts")
    time.now += 0.001
    bar.advance()
    assert bar.line() == "drafts  1/64 prompts"


def test_slow_work_is_told_in_seconds_each(time: Clock) -> None:
    bar = Progress("steps", 4, "steps")
    time.now += 90
    bar.advance()
    assert bar.line() == "steps  1/4 steps  90.0 s each  4 min 30 s left"


def test_work_of_an_earlier_start_shows_but_is_not_in_the_rate(time: Clock) -> None:
    bar = Progress("drafts", 100, "prompts", done=90)
    assert bar.line() == "drafts  90/100 prompts"
    time.now += 5
    bar.advance(5)
    assert bar.line() == "drafts  95/100 prompts  1.0/s  5 s left"


def test_more_work_than_was_planned_leaves_no_negative_time(time: Clock) -> None:
    bar = Progress("drafts", 2, "prompts")
    time.now += 1
    bar.advance(4)
    assert "0 s left" in bar.line()
    assert "-" not in bar.line()


def test_a_note_stays_until_the_next_one(time: Clock) -> None:
    bar = Progress("sft", 3, "steps")
    bar.advance(note="loss 2")
    bar.advance()
    assert bar.line().endswith("loss 2")


def test_without_a_terminal_there_is_a_line_now_and_then(time: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = screen(monkeypatch, terminal=False)
    bar = Progress("drafts", 1000, "prompts")
    for _ in range(100):
        time.now += EVERY_S / 40
        bar.advance()
    assert len(shown.getvalue().splitlines()) == 2
    assert "\r" not in shown.getvalue()


def test_on_a_terminal_the_line_is_drawn_over_each_time(time: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = screen(monkeypatch, terminal=True)
    with progress("drafts", 2, "prompts") as bar:
        bar.advance()
        bar.advance()
    assert shown.getvalue().count("\r\033[K") == 3
    assert shown.getvalue().endswith("drafts  2 prompts in 0 s\n")
    assert shown.getvalue().count("\n") == 1


def test_what_is_said_after_a_failure_begins_on_a_new_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        with progress("drafts", 2, "prompts") as bar:
            bar.advance()
            raise RuntimeError("the engine died")

    shown = screen(monkeypatch, terminal=True)
    with pytest.raises(RuntimeError, match="the engine died"):
        fail()
    assert "1/2 prompts" in shown.getvalue()
    assert shown.getvalue().endswith("\n")
    assert " in 0 s" not in shown.getvalue(), "work that failed is not told as done"


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_says_nothing_at_all(monkeypatch: pytest.MonkeyPatch, time: Clock, terminal: bool) -> None:
    shown = screen(monkeypatch, terminal=terminal)
    with progress("drafts", 2, "prompts", quiet=True) as bar:
        time.now += 2 * EVERY_S
        bar.advance()
    assert shown.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (90061, "25 h 1 min"),
    ],
)
def test_a_duration_as_a_person_says_it(seconds: float, said: str) -> None:
    assert clock(seconds) == said


def test_a_terminal_is_not_written_to_for_every_record(time: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = screen(monkeypatch, terminal=True)
    bar = Progress("drafts", 1000, "prompts")
    for _ in range(1000):
        time.now += REDRAW_S / 100
        bar.advance()
    assert 10 <= shown.getvalue().count("\r") <= 12
    assert "1000/1000" in shown.getvalue()


def test_a_long_line_stays_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    shown = screen(monkeypatch, terminal=True)
    Progress("drafts", 10, "prompts").advance(note="x" * 100)
    assert max(len(part.removeprefix("\033[K")) for part in shown.getvalue().split("\r")) == 39


def test_a_tally_tells_the_rate_and_the_drops(time: Clock) -> None:
    tally = Tally()
    assert tally.note() == ""
    time.now += 4
    tally.spent(Usage(100, 30))
    tally.spent(Usage(100, 50))
    assert tally.note() == "20 tokens/s"
    for reason in ("empty", "empty", "garbled", "a", "b"):
        tally.dropped(reason)
    assert tally.note() == "20 tokens/s  dropped 5: 2 empty, 1 garbled, 1 a, …"
