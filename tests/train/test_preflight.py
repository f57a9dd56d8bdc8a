"""Rows are looked at before the first step: a training on rows that are wrong is refused, others are told of once."""

from pathlib import Path
from typing import Any

import pytest

from cai.engines.render import Renderer
from cai.errors import InputError
from cai.train import preflight
from cai.train.checks import Finding
from cai.train.preflight import refuse_or_tell
from tests.train import rig

WARNING = Finding("repeated", "warning", 1, 4, "the row was there before", "remove repetitions", ("rows.jsonl:3",))
ERROR = Finding("leak", "error", 2, 4, "the prompt is held out, too", "hold out other prompts", ("rows.jsonl:1",))


def test_errors_are_refused_and_warnings_are_told_by_one_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_or_tell([])
    refuse_or_tell([WARNING])
    assert capsys.readouterr().err == f"{WARNING}\n"
    monkeypatch.setattr(preflight, "is_main", lambda: False)
    refuse_or_tell([WARNING])
    assert capsys.readouterr().err == ""
    with pytest.raises(InputError) as refused:
        refuse_or_tell([ERROR, WARNING])
    wanted = "rows.jsonl:1:1: the prompt is held out, too (leak, 2 of 4 rows); hold out other prompts"
    assert str(refused.value.problems[0]) == wanted


@pytest.mark.parametrize("kind", ["reward", "dpo"])
def test_swapped_columns_are_refused_before_a_model_is_loaded(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def loads(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(f"cai.train.{kind}.load_packed", loads)
    rows = rig.write(tmp_path / "swapped.jsonl", [rig.pair(number, chosen_prob=0.1) for number in range(4)])
    config = rig.settings(kind, tmp_path, tiny_model_dir, data=[rows])
    with pytest.raises(InputError, match=r"swapped.jsonl:1:1: chosen_prob is below one half.*inverted-labels, 4 of 4"):
        rig.train(kind, config)
    assert not (config.out / "model").exists()


@pytest.mark.parametrize("kind", ["sft", "reward", "dpo"])
def test_a_warning_does_not_stop_a_training(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    make = rig.chat if kind == "sft" else rig.pair
    rows = rig.write(tmp_path / "twice.jsonl", [make(number % 4) for number in range(8)])
    rig.train(kind, rig.settings(kind, tmp_path, tiny_model_dir, data=[rows]))
    told = capsys.readouterr().err
    assert told.count("warning repeated: 4 of 8 rows: the row was there before") == 1


@pytest.mark.parametrize("kind", ["sft", "reward", "dpo"])
def test_each_text_is_tokenised_once(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    seen: list[str] = []
    encode = Renderer.answer_ids

    def counted(self: Renderer, text: str, **more: Any) -> list[int]:
        seen.append(text)
        return encode(self, text, **more)

    monkeypatch.setattr(Renderer, "answer_ids", counted)
    rig.train(kind, rig.settings(kind, tmp_path, tiny_model_dir, rows=4))
    answers = [rig.chat(n)["messages"][-1]["content"] for n in range(4)]
    if kind != "sft":
        answers = [rig.pair(n)[side] for n in range(4) for side in ("chosen", "rejected")]
    assert seen == answers


def test_prompts_that_are_held_out_and_dropped_are_no_leak(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = rig.write(tmp_path / "held.jsonl", [{**rig.pair(0), "rejected": "No."}])
    rig.train("reward", rig.settings("reward", tmp_path, tiny_model_dir, eval_data=[held]))
    assert "leak" not in capsys.readouterr().err


def test_a_training_that_learns_nothing_says_so_at_its_end(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes: dict[str, Any] = {"rows": 4, "batch_size": 2, "epochs": 12, "learning_rate": 1e-12}
    rig.train("dpo", rig.settings("dpo", tmp_path, tiny_model_dir, **changes))
    assert "stuck-at-chance: The loss ends at 0.693" in capsys.readouterr().err
