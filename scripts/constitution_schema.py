"""Writes constitutions/schema.json, by which editors complete and check constitutions as they are written.

    python scripts/constitution_schema.py

It comes from the model that reads the files, so the two can't differ: a test fails when the file is not current. It
says less than the reader does: that ids differ, for one, is beyond a JSON Schema.
"""

import json
from pathlib import Path
from typing import Any

from cai.constitution import Constitution

TARGET = Path(__file__).parents[1] / "constitutions" / "schema.json"


def schema_text() -> str:
    """Return the file's content."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Constitution.model_json_schema()}
    return json.dumps(_without_empty_defaults(schema), ensure_ascii=False, indent=2) + "\n"


def _without_empty_defaults(part: Any) -> Any:
    """Leave out ``"default": ""``: it stands for "derived from the text", and an editor would write it out."""
    if isinstance(part, dict):
        return {k: _without_empty_defaults(v) for k, v in part.items() if not (k == "default" and v == "")}
    return [_without_empty_defaults(item) for item in part] if isinstance(part, list) else part


if __name__ == "__main__":
    TARGET.write_text(schema_text(), encoding="utf-8")
    print(f"wrote {TARGET}")
