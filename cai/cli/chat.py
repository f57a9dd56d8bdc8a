"""`cai chat`: talk to a model or a checkpoint, under a constitution if one is given."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cai.errors import EngineError, InputError, Problem
from cai.types import Dialogue, Message

if TYPE_CHECKING:
    from cai.constitution import Constitution, Principle
    from cai.engines.base import Engine, Sampling

HELP = """\
/critique [PRINCIPLE]   what is wrong with the last answer, and a revision; without an id a principle is drawn
/system TEXT            what the model is told before everything; nothing: forget it
/reset                  begin a new conversation
/help                   this
/quit                   end (also Ctrl-D)"""


def chat(
    model: Annotated[str, typer.Argument(help="A folder, a checkpoint, a hub id, or 'embedded'.")] = "embedded",
    constitution: Annotated[
        str | None, typer.Option(help="A file or a shipped name: the model is told its principles.")
    ] = None,
    engine: Annotated[str, typer.Option(help="Which engine answers; 'cai doctor' lists them.")] = "transformers",
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest answer.")] = 256,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same answers.")] = 0,
) -> None:
    """Talk to a model; /help lists what else can be said."""
    from cai.constitution import load_constitution
    from cai.engines.base import Sampling
    from cai.engines.build import EngineConfig, build_engine
    from cai.processes import quiet_libraries

    quiet_libraries()
    rules = load_constitution(constitution) if constitution else None
    console = Console()
    sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens)
    talk = Chat(build_engine(EngineConfig(kind=engine, model=model)), sampling, seed=seed, constitution=rules)
    if sys.stdin.isatty():
        console.print("[dim]/help lists what else can be said; Ctrl-D ends[/dim]")
    for said in lines(console):
        for speaker, text in talk.hear(said):
            console.print(f"[bold]{speaker}[/bold] {escape(text)}" if speaker else escape(text), soft_wrap=True)
        if talk.ended:
            break


def lines(console: Console) -> Iterable[str]:
    """Yield what a person types, line by line."""
    while True:
        try:
            yield console.input("[bold]you[/bold]  " if sys.stdin.isatty() else "")
        except EOFError:
            return


class Chat:
    """A conversation: what has been said, and what a line of a person leads to."""

    def __init__(
        self, engine: "Engine", sampling: "Sampling", *, seed: int = 0, constitution: "Constitution | None" = None
    ) -> None:
        """Begin; under a constitution its principles are the system message."""
        self.ended = False
        self.turns: list[Message] = []
        self.system = told(constitution) if constitution else ""
        self._engine, self._sampling, self._seed, self._constitution = engine, sampling, seed, constitution
        self._asked = 0

    def hear(self, said: str) -> list[tuple[str, str]]:
        """Return what is said in return, as (speaker, text)."""
        said = said.strip()
        if not said:
            return []
        if said.startswith("/"):
            return self._command(said)
        self.turns.append(Message("user", said))
        try:
            answer = self._ask(self._dialogue())
        except EngineError:
            self.turns.pop()
            raise
        self.turns.append(Message("assistant", answer))
        return [("model", answer)]

    def _command(self, said: str) -> list[tuple[str, str]]:
        name, _, rest = said.partition(" ")
        if name == "/quit":
            self.ended = True
            return []
        if name == "/reset":
            self.turns.clear()
            return [("", "a new conversation")]
        if name == "/system":
            self.system = rest.strip()
            return [("", "told" if self.system else "nothing is told")]
        if name == "/critique":
            return self._criticise(rest.strip())
        return [("", HELP if name == "/help" else f"no command {name}; /help lists them")]

    def _criticise(self, key: str) -> list[tuple[str, str]]:
        from cai.constitution.ask import critique_request, revision_request

        if self._constitution is None:
            return [("", "there is no constitution; start with --constitution harmless")]
        if not self.turns:
            return [("", "there is no answer yet")]
        try:
            principle = self._principle(key)
        except KeyError:
            return [("", f"no principle {key!r}; cai constitution show lists them")]
        prompt, answer = tuple(self.turns[:-1]), self.turns[-1].content
        critique = self._ask(critique_request(self._constitution, principle, prompt, answer)[0])
        revision = self._ask(revision_request(self._constitution, principle, prompt, answer, critique)[0])
        return [("principle", principle.text), ("critique", critique), ("revision", revision)]

    def _principle(self, key: str) -> "Principle":
        from cai.constitution import draw

        assert self._constitution is not None
        return self._constitution[key] if key else draw(self._constitution, self._seed + self._asked)

    def _dialogue(self) -> Dialogue:
        return (*((Message("system", self.system),) if self.system else ()), *self.turns)

    def _ask(self, dialogue: Dialogue) -> str:
        from cai.engines.base import Failure, GenerateRequest
        from cai.storage import seed_from

        self._asked += 1
        seed = seed_from(self._seed, "chat", "answer", self._asked)
        request = GenerateRequest(id="chat", prompt=dialogue, seeds=(seed,), sampling=self._sampling)
        result = next(iter(self._engine.generate([request])))
        if isinstance(result, Failure):
            raise EngineError(result.message)
        return result.completions[0].text.strip()


def told(constitution: "Constitution") -> str:
    """Return the system message that names a constitution's principles; raises InputError for one that is too long."""
    rules = "\n".join(f"- {principle.text}" for principle in constitution.principles)
    if len(rules) > 20_000:
        fix = "write a shorter one, or leave --constitution out"
        problem = f"{len(rules)} characters of principles are too many to tell a model"
        raise InputError(Problem(constitution.name, 0, 0, problem, fix))
    return f"You are a helpful assistant. Keep to these principles:\n{rules}"
