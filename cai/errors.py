"""Every error that `cai` raises on purpose, and the exit code that a command ends with.

Bad input is a list of problems, each with its place: ``path:line:col: problem; fix``. A failure inside a batch
(one sample, one reward, one verdict) is data, not an exception: see `cai.engines.base.Failure`.
"""

import errno
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

SHOWN = 20
"""How many problems a message lists before it only counts the rest."""


@dataclass(frozen=True, order=True)
class Problem:
    """One thing wrong with an input: where it is, what it is, and what to do about it.

    Line and column count from 1; 0 means that the place has none (a folder, a command line).

    >>> str(Problem("c.yaml", 3, 5, "unknown key 'wieght'", "did you mean 'weight'?"))
    "c.yaml:3:5: unknown key 'wieght'; did you mean 'weight'?"
    """

    path: str
    line: int
    col: int
    problem: str
    fix: str

    def __str__(self) -> str:
        """Return the one-line form that editors can jump to."""
        place = self.path
        if self.line:
            place += f":{self.line}:{self.col}"
        return f"{place}: {self.problem}; {self.fix}"


class CaiError(Exception):
    """The root: a failure that is explained by its message alone. Commands print it without a traceback."""

    exit_code = 1


class InputError(CaiError):
    """Something that a person gave is wrong: a file, a path, a value. Raised before any model call."""

    exit_code = 2

    def __init__(self, problems: Problem | Iterable[Problem], *, more: int = 0) -> None:
        """Hold one problem or several, in the order of their places; `more` counts those that nobody remembers."""
        self.problems = [problems] if isinstance(problems, Problem) else sorted(problems)
        lines = [str(problem) for problem in self.problems[:SHOWN]]
        if more or len(self.problems) > SHOWN:
            lines.append(f"and {len(self.problems) - len(lines) + more} more problems")
        super().__init__("\n".join(lines))


class GateError(CaiError):
    """A gate or an approval said no."""

    exit_code = 3


class EngineError(CaiError):
    """An inference engine failed as a whole (a failure of one request is a result)."""

    exit_code = 4


class TrainingError(CaiError):
    """A training step can't go on: a loss that is not finite, a rank that died."""

    exit_code = 5


class StorageError(CaiError):
    """A file could not be written or read back: disk full, locked by another run, changed under us."""

    exit_code = 5


class MissingDependencyError(CaiError):
    """An optional package is not installed; the message is the command that installs it."""

    exit_code = 2

    def __init__(self, package: str, extra: str) -> None:
        """Name the package and the extra of `cai` that brings it."""
        super().__init__(f"this needs the package {package!r}: pip install 'cai[{extra}]'")


_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}

_DISK_SIGNS = (
    "No space left",
    "PytorchStreamWriter failed writing",
    "inline_container.cc",
    "basic_ios::clear: iostream error",
    *(f"(os error {code})" for code in _DISK),
)
"""What torch and safetensors say of a disk that refused: they pass no error number on."""


INTERRUPTED = 130
"""The exit code after Ctrl-C, as of shells."""


def guarded(work: Callable[[], object]) -> int:
    """Run a command's work and return its exit code; a failure on purpose is one message, without a traceback.

    Ctrl-C gives 130, as shells do. A disk that is full gives 5 wherever it was noticed: libraries that write for us
    wrap the system's error in types of their own.
    """
    try:
        work()
    except CaiError as error:
        print(f"error: {error}" if not isinstance(error, InputError) else str(error), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if not disk_refused(error):
            raise
        print(
            f"error: cannot write: {error}; what was written before is kept: free some room and run again",
            file=sys.stderr,
        )
        return StorageError.exit_code
    return 0


def disk_refused(error: BaseException | None) -> bool:
    """Tell whether a failure comes from a disk that is full, read-only or broken, whatever a library made of it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _DISK:
            return True
        if any(sign in str(error) for sign in _DISK_SIGNS):
            return True
        error = error.__cause__ or error.__context__
    return False
