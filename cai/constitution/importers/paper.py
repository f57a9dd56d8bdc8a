r"""The files published with Bai et al. 2022 (arXiv 2212.08073): instructions to criticise, to compare, and examples.

- ``{"harmful0": {"prompt": ["\n\nCritiqueRequest: …\n\nCritique:"], "edit_request": "\n\nRevisionRequest: …"}}``
- ``["\nPlease choose the assistant response that … Options:"]``
- ``["\n\nHuman: …\n\nAssistant: …\n\nCritiqueRequest: …\n\nCritique: …\n\nRevisionRequest: …\n\nRevision: …"]``
- ``[{"prompt": "\n\nHuman: …\n\nAssistant:", "corrects": ["…"], "incorrects": ["…"]}]``
- ``[{"prompt": "…{} (A) [[[…]]] (B) [[[…]]] Assistant: … So the answer is: (B)"}]``: comparisons with reasons

An instruction to criticise and revise has no counterpart among those to compare. They become principles of two kinds,
told apart by a tag, and a stage draws those of its kind by it.
"""

import itertools
import re
from collections.abc import Iterator
from typing import Any

from cai.constitution.importers.base import File, Found
from cai.constitution.model import ComparisonShot, FewShot
from cai.constitution.prose import slug

CRITIQUE, COMPARISON = "critique", "comparison"
"""The tags of the two kinds of principles."""

TWO_KINDS = (
    f"The principles tagged {CRITIQUE} are instructions to criticise and revise an answer, those tagged {COMPARISON} "
    f"to compare two; neither kind is fit for the other. Generate with tags: [{CRITIQUE}] and label with "
    f"tags: [{COMPARISON}]."
)
"""What the description says."""

_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant|CritiqueRequest|Critique|RevisionRequest|Revision): ?")
_TURNS = ("CritiqueRequest", "Critique", "RevisionRequest", "Revision")
_REASONED = re.compile(
    r"Human: [^\n]*\n+(?P<dialogue>.*?)\s*\{\}\s*\(A\) \[\[\[(?P<a>.*?)\]\]\]\s*\(B\) \[\[\[(?P<b>.*?)\]\]\]\s*"
    r"Assistant: (?P<reasons>.*?)\s*Human:\s*So the answer is: \((?P<answer>[AB])\)",
    re.S,
)
_THINK = re.compile(r"let's think step by step:\s*", re.I)
"""What reasons begin with. A judge that thinks begins so by itself."""

_LONG = {"H": "Human: ", "A": "Assistant: "}


def is_paper(data: Any) -> bool:
    """Tell whether JSON is one of these files."""
    if isinstance(data, dict):
        return any(isinstance(item, dict) and "edit_request" in item for item in data.values())
    first = data[0] if isinstance(data, list) and data else None
    if isinstance(first, str):
        return "CritiqueRequest:" in first or first.rstrip().endswith("Options:")
    return isinstance(first, dict) and "prompt" in first


def read_paper(file: File, found: Found) -> None:
    """Take one of the files."""
    data = file.data
    if isinstance(data, dict):
        for key, item in data.items():
            _pair(file, found, key, item)
    elif isinstance(data, list):
        for item in data:
            _item(file, found, item)
    else:
        raise file.bad("not a list or a mapping", "give a file of the paper's supplement")
    kinds = {tag for principle in found.principles for tag in principle.get("tags", ())}
    if kinds >= {CRITIQUE, COMPARISON} and TWO_KINDS not in found.notes:
        found.notes.append(TWO_KINDS)


def _item(file: File, found: Found, item: Any) -> None:
    if isinstance(item, str) and "CritiqueRequest:" in item:
        found.few_shots.append(file.valid(FewShot, _chain(file, item), file.place(item)))
    elif isinstance(item, str):
        text = re.sub(r"\s*Options:\s*$", "", item).strip()
        found.add(file, file.place(item), {"text": text, "comparison": text, "tags": [COMPARISON]})
    elif isinstance(item, dict) and isinstance(item.get("prompt"), str):
        where = file.place(item["prompt"])
        found.comparison_shots.extend(file.valid(ComparisonShot, shot, where) for shot in _comparisons(file, item))
    else:
        raise file.bad(f"neither an instruction nor an example: {str(item)[:60]!r}", "remove it")


def _pair(file: File, found: Found, key: str, item: Any) -> None:
    prompts = item.get("prompt") if isinstance(item, dict) else None
    prompts = [prompts] if isinstance(prompts, str) else prompts
    revision = item.get("edit_request") if isinstance(item, dict) else None
    if not isinstance(prompts, list) or not prompts or not isinstance(revision, str):
        raise file.bad(f"{key!r} has no 'prompt' and 'edit_request'", "add them", near=key)
    revision = _stripped(revision, "RevisionRequest", "Revision")
    for number, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise file.bad(f"a prompt of {key!r} is not a text", "write a text", near=key)
        critique = _stripped(prompt, "CritiqueRequest", "Critique")
        given = {"text": revision, "critique": critique, "revision": revision, "tags": [CRITIQUE]}
        found.add(file, file.place(key), given, slug(key if len(prompts) == 1 else f"{key}-{number}", 48))


def _stripped(text: str, before: str, after: str) -> str:
    return re.sub(rf"\s*{after}:\s*$", "", re.sub(rf"^\s*{before}:\s*", "", text)).strip()


def _chain(file: File, text: str) -> dict[str, Any]:
    """Return an example of a critique and a revision from the transcript of one."""
    parts = _SPEAKER.split(text)
    turns = list(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))
    if turns and turns[-1] == ("Human", ""):  # where the next example was to begin
        turns.pop()
    names = [who for who, _ in turns]
    if names[-4:] != list(_TURNS) or names[-5:-4] != ["Assistant"] or names[:1] != ["Human"] or len(names) < 6:
        raise file.bad("an example without all of its turns", f"write Human, Assistant, {', '.join(_TURNS)}", near=text)
    dialogue = turns[:-4]
    prompt = "\n\n".join(f"{who}: {said}" for who, said in dialogue[:-1]).removeprefix("Human: ")
    return {
        "prompt": prompt,
        "response": dialogue[-1][1],
        "critique_request": turns[-4][1],
        "critique": turns[-3][1],
        "revision_request": turns[-2][1],
        "revision": turns[-1][1],
    }


def _comparisons(file: File, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield examples of comparisons: each better answer with each worse one, and the reasons if there are some."""
    dialogue, said = item["prompt"], {}
    if reasoned := _REASONED.fullmatch(dialogue.strip()):
        answers = {"A": reasoned["a"], "B": reasoned["b"]}
        place = reasoned["answer"]
        pairs = [(answers.pop(place), *answers.values())]
        said = {"reasons": _THINK.sub("", reasoned["reasons"], count=1).strip(), "place": place}
        dialogue = reasoned["dialogue"]
    else:
        pairs = list(itertools.product(*(_answers(file, item, key) for key in ("corrects", "incorrects"))))
    dialogue = re.sub(r"(?m)^(H|A): *", lambda match: _LONG[match.group(1)], dialogue)
    dialogue = re.sub(r"\n\nAssistant:\s*$", "", re.sub(r"^\s*Human: ?", "", dialogue)).strip()
    for chosen, rejected in pairs:
        yield {"prompt": dialogue, "chosen": chosen.strip(), "rejected": rejected.strip(), **said}


def _answers(file: File, item: dict[str, Any], key: str) -> list[str]:
    answers = item.get(key)
    if not isinstance(answers, list) or not answers or not all(isinstance(answer, str) for answer in answers):
        raise file.bad(f"an example without {key!r}", f"write {key!r} as a list of answers", near=item["prompt"])
    return answers
