"""Small files of the formats that are imported, in our own words."""

import json
from pathlib import Path
from typing import Any

from cai.constitution import Constitution
from cai.constitution.parse import read_constitution
from cai.constitution.yaml_out import to_yaml
from cai.strict_yaml import load

PAIRS = {
    "harmful0": {
        "prompt": ["\n\nCritiqueRequest: Say what is cruel.\n\nCritique:"],
        "edit_request": "\n\nRevisionRequest: Take out what is cruel.\n\nRevision:",
    },
    "harmful1": {"prompt": ["\n\nCritiqueRequest: Say what is false."], "edit_request": "Make it true."},
}
QUESTIONS = ["\nPlease choose the response that is kinder. Options:", "\nWhich response is calmer? Options:"]
CHAINS = [
    "\n\nHuman: One?\n\nAssistant: Two.\n\nHuman: Three?\n\nAssistant: Four.\n\nCriticism apart."
    "\n\nCritiqueRequest: What?\n\nCritique: This.\n\nRevisionRequest: Mend.\n\nRevision: Five.\n\nSix.\n\nHuman:"
]
CHOICES = [{"prompt": "\n\nHuman: Seven?\n\nAssistant:", "corrects": ["Good."], "incorrects": ["Bad."]}]
REASONED = [
    {
        "prompt": "\n\nHuman: Consider the following:\n\nH: Eight?\n\nA:  Nine.\n\nH: Ten?"
        "\n\n{}\n (A) [[[Worse.]]]\n (B) [[[Better.]]]\n\nAssistant: Let's think step by step: (B) is."
        "\n\nHuman:\nSo the answer is: (B)"
    }
]
PAPER = {"a": PAIRS, "b": QUESTIONS, "c": CHAINS, "d": CHOICES, "e": REASONED}

CHAT = [{"role": ("user", "assistant")[index % 2], "content": f"turn {index}"} for index in range(8)]
SWARM = {
    "constitutions": [{"critic": "Say what is rude.", "revision": "Make it polite."}],
    "system_chat": [CHAT],
}


def write(folder: Path, name: str, content: Any) -> Path:
    """Write a text, or something as JSON."""
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1), encoding="utf-8")
    return path


def loads_again(constitution: Constitution) -> None:
    """Hold a constitution to what the YAML written of it says."""
    assert read_constitution(load(to_yaml(constitution))) == constitution
