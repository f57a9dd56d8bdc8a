"""Which constitutions a model was made under: the digests in its data, and in the models it was made with.

They stand in ``cai.json`` in the model's folder, so that a folder that is copied away still says so.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cai.records.rows import read_rows

NAME = "cai.json"


def constitutions_of(data: Iterable[Path] = (), models: Iterable[str | Path] = ()) -> list[str]:
    """Return the digests in files of rows and in models' folders, sorted; what says nothing adds nothing."""
    found: set[str] = set()
    for path in data:
        for _, row in read_rows(path):
            made = row.get("constitution") or (row.get("provenance") or {}).get("constitution")
            found.update([made] if isinstance(made, str) and made else [])
    for model in models:
        found.update(_said(model).get("constitutions", []))
    return sorted(found)


def base_of(adapter: Path) -> str | None:
    """Return the digest of the model that an adapter was trained over, None where its folder says none."""
    found: str | None = _said(adapter).get("base")
    return found


def _said(model: str | Path) -> dict[str, Any]:
    path = Path(model) / NAME
    said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return said


def mark(folder: Path, constitutions: list[str], **more: str) -> None:
    """Write what a model was made under into its folder; of an adapter also which `base` it is over, as a digest."""
    text = json.dumps({"constitutions": constitutions, **more}, indent=2) + "\n"
    (folder / NAME).write_text(text, encoding="utf-8")
