import errno
from collections.abc import Callable

import pytest

from cai.errors import (
    SHOWN,
    CaiError,
    EngineError,
    GateError,
    InputError,
    MissingDependencyError,
    Problem,
    StorageError,
    TrainingError,
    guarded,
)


def problem(line: int, path: str = "a.jsonl") -> Problem:
    return Problem(path, line, 1, "bad", "mend it")


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def test_a_place_without_a_line_is_the_path_alone() -> None:
    assert str(Problem("folder", 0, 0, "empty", "fill it")) == "folder: empty; fill it"


def test_problems_are_listed_in_the_order_of_their_places() -> None:
    error = InputError([problem(12), problem(3), problem(7, "Z.jsonl")])
    assert str(error).splitlines() == [
        "Z.jsonl:7:1: bad; mend it",
        "a.jsonl:3:1: bad; mend it",
        "a.jsonl:12:1: bad; mend it",
    ]


def test_of_many_problems_twenty_are_shown_and_the_rest_is_counted() -> None:
    lines = str(InputError(problem(line) for line in range(1, SHOWN + 6))).splitlines()
    assert len(lines) == SHOWN + 1 == 21
    assert lines[-1] == "and 5 more problems"
    assert len(str(InputError(problem(line) for line in range(1, SHOWN + 1))).splitlines()) == SHOWN


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError(problem(1)), 2),
        (MissingDependencyError("ray", "ray"), 2),
        (GateError("no"), 3),
        (EngineError("gone"), 4),
        (TrainingError("loss is nan"), 5),
        (StorageError("full"), 5),
        (CaiError("else"), 1),
    ],
)
def test_a_failure_on_purpose_is_its_message_and_its_exit_code(
    error: CaiError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded(raising(error)) == code
    said = capsys.readouterr()
    assert str(error) in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


def test_problems_of_an_input_can_be_jumped_to(capsys: pytest.CaptureFixture[str]) -> None:
    guarded(raising(InputError(problem(3))))
    assert capsys.readouterr().err.startswith("a.jsonl:3:1: ")


def test_a_missing_package_is_told_with_the_command_that_installs_it() -> None:
    assert "pip install 'cai[vllm]'" in str(MissingDependencyError("vllm", "vllm"))


def test_work_that_ends_well_gives_zero_and_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: None) == 0
    assert capsys.readouterr() == ("", "")


def test_ctrl_c_gives_what_shells_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raising(KeyboardInterrupt())) == 130
    assert "goes on from here" in capsys.readouterr().err


def wrapped(cause: BaseException) -> RuntimeError:
    try:
        raise RuntimeError("saving failed") from cause
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EROFS, "Read-only file system"),
        wrapped(OSError(errno.ENOSPC, "No space left on device")),
        RuntimeError("PytorchStreamWriter failed writing file data/0"),
        RuntimeError("Error while serializing: No space left on device (os error 28)"),
        RuntimeError("Error while serializing: Input/output error (os error 5)"),
        RuntimeError("basic_ios::clear: iostream error"),
    ],
)
def test_a_full_disk_gives_five_whoever_noticed_it(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raising(error)) == 5
    assert "free some room" in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError(errno.ENOENT, "no such file"), wrapped(ValueError())])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        guarded(raising(error))


def test_an_error_that_names_itself_as_its_cause_does_not_hang() -> None:
    error = RuntimeError("a circle")
    error.__cause__ = error
    with pytest.raises(RuntimeError, match="a circle"):
        guarded(raising(error))
