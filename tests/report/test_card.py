"""The card of a data set: true figures of a run, and a header that the hub and `datasets` read."""

import json
from pathlib import Path

import pytest

from cai.constitution import load_constitution
from cai.engines.scripted import ScriptedEngine
from cai.generate import pipeline
from cai.generate.pipeline import run_generate
from cai.records.export import preference_rows, write_rows
from cai.records.journal import Journal
from cai.report.card import COLUMNS, data_card, export_run
from tests.generate.answers import reply
from tests.generate.test_pipeline import prompts, settings
from tests.records.samples import preference

__all__ = ["prompts"]


@pytest.fixture
def run(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pipeline, "build_engine", lambda config: ScriptedEngine(reply))
    run_generate(settings(prompts, tmp_path / "my run"))
    return tmp_path / "my run"


def cells(card: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in card.splitlines() if line[:1] == "|"]


def test_the_card_says_what_the_run_says(run: Path) -> None:
    card = data_card(run, run / "sft.jsonl", name="mine")
    constitution = load_constitution("harmless")
    assert f"{constitution.name}, version {constitution.version}, SHA-256 `{constitution.digest}` (14 rows)" in card
    table = cells(card)
    assert ["drafts", "scripted", "script", "9"] in table
    assert ["revisions", "scripted", "script", "10"] in table
    assert ["training rows", "14"] in table
    assert ["rows of kind red_team", "10"] in table
    assert "shares 85% of its three-word runs" in card
    costs = [json.loads(line) for line in (run / "costs.jsonl").read_text().splitlines()]
    read, written = (sum(row[name] for row in costs) for name in ("prompt", "completion"))
    assert f"{read:,} tokens read and {written:,} written" in card
    assert written == sum(
        len(json.loads(line)["text"].encode())
        for name in ("drafts", "critiques", "revisions")
        for line in (run / f"{name}.jsonl").read_text("utf-8").splitlines()
    )
    for heading in ("Intended use", "Limits", "Columns", "Costs"):
        assert f"## {heading}\n\n" in card
    assert str(run) not in card


def test_the_folder_is_a_data_set(run: Path, tmp_path: Path) -> None:
    from datasets import load_dataset
    from huggingface_hub import DatasetCard

    assert export_run(run, tmp_path / "out", licence="apache-2.0") == 14
    found = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert found.column_names == ["messages", "kind", "category", "constitution", "record"]
    assert list(found) == [json.loads(line) for line in (run / "sft.jsonl").read_text("utf-8").splitlines()]
    header = DatasetCard.load(tmp_path / "out/README.md").data
    assert header.license == "apache-2.0"
    assert header.pretty_name == "my run"
    assert header.size_categories == ["n<1K"]


def test_reasons_are_counted_and_texts_cannot_break_the_card(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    result["dropped"] = {"draft: a | b\n# <script>": 3}
    (run / "result.json").write_text(json.dumps(result))
    card = data_card(run, run / "sft.jsonl", name="x\n---\n# y <b>", licence='"\n- x')
    assert "| draft: a \\| b # &lt;script> | 3 |" in card
    head = card.split("---\n")[1]
    assert '\npretty_name: "x\\n---\\n# y <b>"\n' in head or "pretty_name" in card.partition("tags:")[0]
    assert card.count("\n# ") == 1


def test_pairs_have_a_judge(tmp_path: Path) -> None:
    with Journal(tmp_path / "preferences.jsonl") as journal:
        journal.append(preference(0.75))
    write_rows(tmp_path / "pairs.jsonl", preference_rows([preference(0.75)]))
    (tmp_path / "result.json").write_text(json.dumps({"counts": {"labels": 1, "training_rows": 1}}))
    (tmp_path / "summary.json").write_text(json.dumps({"dropped": {"equal answers": 2}}))
    card = data_card(tmp_path, tmp_path / "pairs.jsonl", name="pairs")
    assert ["judged pairs", "pairwise", "–", "1"] in cells(card)
    assert ["equal answers", "2"] in cells(card)
    assert "`DPOTrainer` read it as it is" in card
    assert "Not counted." in card


def test_every_column_of_a_row_is_explained(run: Path) -> None:
    rows = [*preference_rows([preference(0.75)]), json.loads((run / "sft.jsonl").read_text().splitlines()[0])]
    assert {name for row in rows for name in row} | {"spread"} == set(COLUMNS)


def test_money_is_what_the_prices_say(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config["engine"]["server"] = {"prompt_price": 1e6, "completion_price": 0.0}
    (run / "config.json").write_text(json.dumps(config))
    costs = [json.loads(line) for line in (run / "costs.jsonl").read_text().splitlines()]
    card = data_card(run, run / "sft.jsonl", name="x")
    assert f", {sum(row['prompt'] for row in costs):.2f} in money." in card
