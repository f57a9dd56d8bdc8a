"""Train a language model under a written constitution, with AI feedback, generation after generation.

The names below load what they need when they are first used, so `import cai` is quick and loads no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cai.constitution import Constitution as Constitution
    from cai.constitution import Principle as Principle
    from cai.constitution import load_constitution as load_constitution
    from cai.engines.build import build_engine as build_engine
    from cai.records.loaders import load_prompts as load_prompts

__version__ = "0.1.0"

_HOMES = {
    "Constitution": "cai.constitution",
    "Principle": "cai.constitution",
    "load_constitution": "cai.constitution",
    "build_engine": "cai.engines.build",
    "load_prompts": "cai.records.loaders",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Load a public name from its home when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cai' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
