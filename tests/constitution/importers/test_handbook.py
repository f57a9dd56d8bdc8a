import json
from pathlib import Path
from typing import Any

import pytest

from cai.constitution.importers import import_constitution
from cai.constitution.importers.handbook import is_handbook
from cai.errors import InputError
from tests.constitution.importers.samples import CHAT, SWARM, loads_again, write

REPOSITORY = {"constitutions": SWARM["constitutions"]}


def test_pairs_are_principles_and_chats_are_examples(tmp_path: Path) -> None:
    constitution = import_constitution(write(tmp_path, "grok.json", SWARM))
    assert constitution.name == "grok"
    (principle,) = constitution.principles
    assert (principle.id, principle.critique) == ("make-it-polite", "Say what is rude.")
    assert principle.text == principle.revision == "Make it polite."
    assert principle.comparison == "Which of these answers follows this better: Make it polite."
    (example,) = constitution.few_shots
    assert example.prompt == "turn 0\n\nAssistant: turn 1\n\nHuman: turn 2"
    assert (example.response, example.critique_request, example.critique) == ("turn 3", "turn 4", "turn 5")
    assert (example.revision_request, example.revision) == ("turn 6", "turn 7")
    loads_again(constitution)


def test_a_system_turn_is_put_before_the_question(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be brief."}, *CHAT[:6]]
    (example,) = import_constitution(write(tmp_path, "c.json", {**SWARM, "system_chat": [chat]})).few_shots
    assert (example.prompt, example.response) == ("Be brief.\n\nturn 0", "turn 1")


def test_chats_may_be_left_out(tmp_path: Path) -> None:
    assert not import_constitution(write(tmp_path, "c.json", REPOSITORY)).few_shots


def test_a_format_can_be_said(tmp_path: Path) -> None:
    path = write(tmp_path, "x.txt", json.dumps(SWARM))
    assert len(import_constitution(path, format="handbook").principles) == 1


def test_the_content_tells_the_format() -> None:
    assert is_handbook(SWARM)
    assert not is_handbook([SWARM])


def chat(*roles: str) -> dict[str, Any]:
    return {**SWARM, "system_chat": [[{"role": role, "content": "x"} for role in roles]]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"constitutions": 3}', r"a\.json:1:1: no list 'constitutions'"),
        ('{"constitutions": [\n{"critic": "Why?"}]}', r"a\.json:2:12: constitution 1 needs"),
        ('{"constitutions": [\n3]}', r"a\.json:1:2: constitution 1 needs"),
        ('{"constitutions": [],\n "system_chat": [[]]}', r"a\.json:2:2: chat 1 is not"),
        ('{"constitutions": [],\n "system_chat": 3}', r"a\.json:2:2: 'system_chat' is not a list"),
        (json.dumps(chat("user", "assistant")), "chat 1 is not"),
        (json.dumps(chat(*["user", "assistant"] * 2, "user")), "chat 1 is not"),
        (json.dumps(chat("user", "user", "assistant", "user", "assistant", "user")), "chat 1 is not"),
        (json.dumps({"constitutions": []}), "a.json: no principle here"),
    ],
)
def test_bad_files_are_named_by_their_place(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        import_constitution(write(tmp_path, "a.json", content))
