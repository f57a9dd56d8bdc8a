"""The JSON of llm-swarm's constitutional-AI example, which alignment-handbook's recipe uses.

    {"constitutions": [{"critic": "…", "revision": "…"}], "system_chat": [[{"role": "user", "content": "…"}, …]]}

Each chat is an example: a dialogue, then the request for a critique, the critique, the request for a revision, the
revision, in turns of user and assistant. There, all chats are one long conversation before the real one.
"""

from typing import Any, TypeGuard

from cai.constitution.importers.base import File, Found
from cai.constitution.model import FewShot

_ROLES = ("user", "assistant")
_PARTS = ("response", "critique_request", "critique", "revision_request", "revision")
"""What the last turns of a chat are."""


def is_handbook(data: Any) -> TypeGuard[dict[str, Any]]:
    """Tell whether JSON is of this format."""
    return isinstance(data, dict) and "constitutions" in data


def read_handbook(file: File, found: Found) -> None:
    """Take the pairs of requests as principles and the chats as examples."""
    data = file.data
    pairs = data.get("constitutions") if is_handbook(data) else None
    if not isinstance(pairs, list):
        raise file.bad("no list 'constitutions'", 'write {"constitutions": [{"critic": …, "revision": …}]}')
    for number, item in enumerate(pairs, start=1):
        both = [item.get(key) for key in ("critic", "revision")] if isinstance(item, dict) else []
        parts = [part for part in both if isinstance(part, str) and part.strip()]
        if len(parts) != 2:
            problem = f"constitution {number} needs a 'critic' and a 'revision'"
            raise file.bad(problem, "write both as texts", near=parts[0] if parts else "constitutions")
        critique, revision = parts
        found.add(file, file.place(critique), {"text": revision, "critique": critique, "revision": revision})
    chats = data.get("system_chat", [])
    if not isinstance(chats, list):
        raise file.bad("'system_chat' is not a list", "write a list of chats", near="system_chat")
    found.few_shots.extend(_example(file, number, chat) for number, chat in enumerate(chats, start=1))


def _example(file: File, number: int, chat: Any) -> dict[str, Any]:
    turns = [turn if isinstance(turn, dict) else {} for turn in chat] if isinstance(chat, list) else []
    # A system turn says how to behave in the whole conversation; it is put before the question.
    told = [turn.get("content") for turn in turns if turn.get("role") == "system"]
    said = [turn for turn in turns if turn.get("role") != "system"]
    texts = [text for text in (turn.get("content") for turn in said) if isinstance(text, str) and text.strip()]
    right = all(turn.get("role") == _ROLES[index % 2] for index, turn in enumerate(said))
    if not right or len(texts) < 6 or len(texts) % 2 or len(texts) != len(said):
        problem = f"chat {number} is not a question, an answer, a critique and a revision, each asked for and given"
        near = texts[0] if texts else "system_chat"
        raise file.bad(problem, "write user and assistant turns in turn, six or more", near=near)
    names = ("Human", "Assistant")
    prompt = "\n\n".join(f"{names[index % 2]}: {text}" for index, text in enumerate(texts[:-5])).removeprefix("Human: ")
    before = [text for text in told if isinstance(text, str) and text.strip()]
    example = {"prompt": "\n\n".join([*before, prompt]), **dict(zip(_PARTS, texts[-5:], strict=True))}
    return file.valid(FewShot, example, file.place(texts[0]))
