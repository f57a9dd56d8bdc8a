"""Runs a plan: one stage after the other, each in its own process, each done once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cai.constitution import load_constitution
from cai.engines.embedded import model_digest, resolve_model
from cai.errors import INTERRUPTED, CaiError
from cai.progress import clock
from cai.records.loaders import load_prompts
from cai.storage import FolderLock, atomic_write_json
from cai.successor.lineage import Ledger, describe_run, open_run
from cai.successor.plan import RunConfig, StagePlan, plan_run
from cai.successor.prepare import PromptsConfig, run_prepare
from cai.successor.stage import Fingerprint, begin, fingerprint, finish, state

Say = Callable[[str], None]


class StageFailedError(CaiError):
    """A stage's process ended badly; what it had to say is on the terminal already."""

    def __init__(self, label: str, exit_code: int) -> None:
        """Say which stage, with the exit code that the whole run ends with."""
        self.exit_code = exit_code
        super().__init__(f"the stage {label} stopped (exit {exit_code}); what it made is kept: mend it and run again")


def run_successor(config: RunConfig, *, say: Say = print, origin: str = "stages") -> Path:
    """Make the successor of a model, generation after generation, and return the run's folder.

    Everything given is checked first: raises InputError before any model is loaded, StorageError when another process
    works in the folder, and StageFailedError when a stage's process ends badly.
    """
    constitution = load_constitution(config.constitution)
    load_prompts(config.prompts)
    model = resolve_model(config.model)
    config = config.model_copy(update={"out": config.out.absolute()})
    plans = plan_run(_with_whole_paths(config, model), origin=origin)
    with FolderLock(config.out) as lock:
        open_run(config.out, describe_run(config, constitution, model_digest(model)))
        ledger = Ledger(config.out / "ledger.jsonl")
        for number, plan in enumerate(plans, start=1):
            expected = fingerprint(plan, config.out)
            found = state(plan, expected)
            heading = f"[{number}/{len(plans)}] {plan.label}"
            if found == "done":
                say(f"{heading}: done before")
                continue
            say(f"{heading}: {'going on' if found == 'begun' else 'starting'}")
            _run_stage(plan, expected, ledger, lock, say, resumed=found == "begun")
    return config.out


def _with_whole_paths(config: RunConfig, model: str) -> RunConfig:
    """Return the config as the stages need it, wherever their processes run."""
    constitution = config.constitution
    if Path(constitution).exists():
        constitution = str(Path(constitution).absolute())
    return config.model_copy(update={"model": model, "constitution": constitution})


def _run_stage(
    plan: StagePlan, expected: Fingerprint, ledger: Ledger, lock: FolderLock, say: Say, *, resumed: bool
) -> None:
    start = time.monotonic()
    begin(plan, expected)
    ledger.append("resumed" if resumed else "started", plan.label, fingerprint=expected.digest)
    if isinstance(plan.config, PromptsConfig):
        run_prepare(plan.config)
    else:
        code = _run_child(plan, lock)
        if code != 0:
            ledger.append("stopped", plan.label, exit=code)
            if code == INTERRUPTED:
                raise KeyboardInterrupt
            raise StageFailedError(plan.label, code)
    seconds = time.monotonic() - start
    made = finish(plan, seconds)
    ledger.append("finished", plan.label, seconds=round(seconds, 1), made=made)
    say(f"    {plan.label} took {clock(seconds)}")


def _run_child(plan: StagePlan, lock: FolderLock) -> int:
    """Run a stage's process to its end and return its exit code; 130 after Ctrl-C.

    The process gets the run's lock too: should this one be killed, nobody else can start before that one is gone.
    """
    config = plan.folder / "config.json"
    atomic_write_json(config, plan.config.to_plain())
    command = [sys.executable, "-m", "cai.successor.child", plan.name, str(config), "--processes", str(plan.processes)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen(command, env=environment, pass_fds=(lock.fileno(),))
    try:
        return _exit_code(child.wait())
    except KeyboardInterrupt:
        # The terminal sent Ctrl-C to the child as well, which finishes what is under way; a second one ends the wait.
        try:
            child.wait()
        except KeyboardInterrupt:
            child.kill()
            child.wait()
        return INTERRUPTED


def _exit_code(code: int) -> int:
    if code == -signal.SIGINT:
        return INTERRUPTED
    return code if code >= 0 else 4 if code != -signal.SIGKILL else 5
