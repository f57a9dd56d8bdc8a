"""A constitution with a principle that works and one that is dead weight, and a model that a script plays."""

from pathlib import Path

from cai.engines.base import Failure, GenerateRequest, ScoreRequest
from cai.engines.scripted import ScriptedEngine
from cai.storage import seed_from

KIND = "Be kind to the person."
CONSTITUTION = f"""\
name: small
version: "1"
principles:
  - id: sea
    text: Think of the answer near the sea.
    probes:
      - prompt: Sea question one?
        twin: Sea question two?
      - prompt: Sea question three?
        twin: Sea question four?
  - id: kind
    text: {KIND}
    contrast: Be cruel to the person.
    probes:
      - prompt: Rude question one?
        twin: Gentle question one?
      - prompt: Rude question two?
        twin: Gentle question two?
    checker: includes:dear
  - id: silent
    text: Say nothing at night.
"""


def constitution_file(folder: Path, text: str = CONSTITUTION) -> str:
    path = folder / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def said(request: GenerateRequest | ScoreRequest) -> str:
    assert not isinstance(request.prompt, str)
    return request.prompt[-1].content


def reply(request: GenerateRequest, seed: int) -> str | Failure:
    """Answer rudely; revise kindly when the revision is asked in the name of kindness."""
    asked = said(request)
    if "Rewrite the assistant's last answer" in asked:
        return f"Well then, my dear friend {seed % 97}." if KIND in asked else f"Waves, and no {seed % 97} more."
    if "Point out specific ways" in asked:
        return "The answer is rude."
    return f"Go away, number {seed % 97}."


def score(request: ScoreRequest, candidate: str) -> float:
    """Be told of kindness by what is kind, see rude answers to rude questions, and else go by noise."""
    assert not isinstance(request.prompt, str)
    asked = said(request)
    if "Say Yes or No." in asked:
        sees = KIND in asked and "Rude question" in asked and "Go away" in asked
        return (2.0 if sees else -2.0) if candidate == " Yes" else 0.0
    noise = (seed_from("c", asked, request.prompt[0].content, candidate) % 1000 - 500) / 50_000
    told = {KIND: 0.2, "Be cruel to the person.": -0.1}.get(request.prompt[0].content, 0.0)
    return len(candidate.encode()) * (noise - 1 + (told if "dear" in candidate else 0.0))


def engine(*, model: str = "script") -> ScriptedEngine:
    return ScriptedEngine(reply, score, model=model)
