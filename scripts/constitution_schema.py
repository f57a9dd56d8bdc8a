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
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_extending(Constitution.model_json_schema())}
    return json.dumps(_without_empty_defaults(schema), ensure_ascii=False, indent=2) + "\n"


def _extending(schema: dict[str, Any]) -> dict[str, Any]:
    """Add `extends` and `remove`, which are dealt with before the model sees a file: with them less is required."""
    name = {"type": "string", "minLength": 1}
    said = "What this one stands on: the name of a shipped constitution, or a path from this file's folder; or a list."
    schema["properties"] |= {
        "extends": {"description": said, "anyOf": [name, {"type": "array", "items": name, "minItems": 1}]},
        "remove": {"description": "Ids of principles that are not taken over.", "type": "array", "items": name},
    }
    whole = {"items": {"required": schema["$defs"]["Principle"].pop("required")}}
    schema["required"].remove("principles")
    schema["$defs"]["Principle"]["required"] = ["id"]
    schema["if"] = {"not": {"required": ["extends"]}}
    schema["then"] = {"required": ["principles"], "properties": {"principles": whole, "remove": False}}
    return schema


def _without_empty_defaults(part: Any) -> Any:
    """Leave out ``"default": ""``: it stands for "derived from the text", and an editor would write it out."""
    if isinstance(part, dict):
        return {k: _without_empty_defaults(v) for k, v in part.items() if not (k == "default" and v == "")}
    return [_without_empty_defaults(item) for item in part] if isinstance(part, list) else part


if __name__ == "__main__":
    TARGET.write_text(schema_text(), encoding="utf-8")
    print(f"wrote {TARGET}")
