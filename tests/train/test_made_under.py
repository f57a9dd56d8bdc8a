import json
from pathlib import Path

from cai.train.made_under import constitutions_of, mark


def rows(path: Path, *given: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return path


def test_digests_come_from_rows_records_and_models(tmp_path: Path) -> None:
    exported = rows(tmp_path / "sft.jsonl", {"constitution": "b"}, {"constitution": "b"}, {"constitution": ""}, {})
    journal = rows(tmp_path / "preferences.jsonl", {"provenance": {"constitution": "a"}}, {"provenance": None})
    model = tmp_path / "model"
    model.mkdir()
    assert constitutions_of([exported, journal], [model, "embedded"]) == ["a", "b"]
    mark(model, ["c"])
    assert constitutions_of([exported], [model]) == ["b", "c"]
    assert constitutions_of() == []
