import json
import math
from pathlib import Path

import pytest

from cai.errors import InputError
from cai.records import dataset
from cai.records.dataset import Format, rows_file, write_dataset
from cai.records.export import preference_rows, write_rows
from tests.records.samples import preference

FORMS: tuple[Format, ...] = ("parquet", "jsonl")


def chat(number: int) -> dict[str, object]:
    turns = [{"role": "user", "content": f"Q{number} é\u2028"}, {"role": "assistant", "content": f"A{number}"}]
    return {"messages": turns, "kind": "helpful", "category": "", "constitution": "c" * 64, "record": str(number)}


def load(folder: Path, tmp_path: Path) -> list[dict[str, object]]:
    from datasets import load_dataset

    return list(load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache")))


@pytest.mark.parametrize("form", FORMS)
def test_rows_come_back_in_their_order_from_many_files(
    tmp_path: Path, form: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "ROWS_PER_FILE", 10)
    monkeypatch.setattr(dataset, "GROUP", 4)
    rows = [chat(number) for number in range(23)]
    write_rows(tmp_path / "sft.jsonl", rows)
    assert write_dataset(tmp_path / "sft.jsonl", tmp_path / "out", form=form) == 23
    names = sorted(path.name for path in (tmp_path / "out/data").iterdir())
    assert names == [f"train-0000{number}-of-00003.{form}" for number in range(3)]
    assert load(tmp_path / "out", tmp_path) == rows
    before = {name: (tmp_path / "out/data" / name).read_bytes() for name in names}
    write_dataset(tmp_path / "sft.jsonl", tmp_path / "out", form=form)
    assert {name: (tmp_path / "out/data" / name).read_bytes() for name in names} == before


@pytest.mark.parametrize("form", FORMS)
def test_pairs_have_trls_columns_and_soft_labels(tmp_path: Path, form: Format) -> None:
    rows = preference_rows([preference(0.75), preference(0.125), preference(0.5)])
    write_rows(tmp_path / "pairs.jsonl", rows)
    write_dataset(tmp_path / "pairs.jsonl", tmp_path / "out", form=form)
    found = load(tmp_path / "out", tmp_path)
    assert [row["chosen_prob"] for row in found] == [0.75, 0.875]
    assert found == rows


def test_a_shorter_data_set_leaves_nothing_of_the_longer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "ROWS_PER_FILE", 2)
    write_rows(tmp_path / "a.jsonl", [chat(number) for number in range(5)])
    write_dataset(tmp_path / "a.jsonl", tmp_path / "out")
    (tmp_path / "out/data/.train-00000-of-00001.jsonl.x.part").write_text("of a killed one")
    write_rows(tmp_path / "a.jsonl", [chat(7)])
    write_dataset(tmp_path / "a.jsonl", tmp_path / "out", form="jsonl")
    assert [path.name for path in (tmp_path / "out/data").iterdir()] == ["train-00000-of-00001.jsonl"]


def test_rows_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("")
    with pytest.raises(InputError, match=r"a\.jsonl: no rows"):
        write_dataset(path, tmp_path / "out")
    write_rows(path, [chat(0), {**chat(1), "more": 1}])
    with pytest.raises(InputError, match=r"a\.jsonl:2:1: other columns than the first row's \(more\)"):
        write_dataset(path, tmp_path / "out")


def test_only_a_finished_run_has_rows(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name the folder of a finished run"):
        rows_file(tmp_path)
    (tmp_path / "pairs.jsonl").touch()
    with pytest.raises(InputError, match="no sft"):
        rows_file(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps({"counts": {}}))
    assert rows_file(tmp_path) == tmp_path / "pairs.jsonl"


def test_trl_takes_the_columns(tmp_path: Path) -> None:
    from datasets import load_dataset
    from trl.data_utils import is_conversational

    for name, rows in (("chat", [chat(0)]), ("pairs", preference_rows([preference(0.75)]))):
        write_rows(tmp_path / f"{name}.jsonl", rows)
        write_dataset(tmp_path / f"{name}.jsonl", tmp_path / name)
        found = load_dataset(str(tmp_path / name), split="train", cache_dir=str(tmp_path / "cache"))
        assert is_conversational(found[0])
    assert math.isclose(found[0]["chosen_prob"], 0.75)
