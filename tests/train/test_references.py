"""The reference's sums: the naive ones, kept by content, the same bits in any company, and taken up after a kill."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from cai.engines.render import Renderer
from cai.train import references
from cai.train.data import Pair, load_pairs
from cai.train.dpo import collate
from cai.train.packing import pack_tokens
from cai.train.readout import answer_sums, use_packing
from cai.train.references import cache_path, content_key, kept_sums, pair_sums, reference_sums, with_references
from tests.engines import tiny
from tests.train import rig
from tests.train.test_dpo import naive_sum


@pytest.fixture(scope="module")
def model() -> Any:
    return use_packing(tiny.llama(), "tiny")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> list[Pair]:
    path = rig.write(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", [rig.pair(number) for number in range(5)])
    return load_pairs([path], Renderer(AutoTokenizer.from_pretrained(tiny_model_dir)), max_length=512)[0]


def never() -> Any:
    raise AssertionError("loaded a model")


def test_they_are_the_naive_sums_and_come_with_their_pairs(model: Any, pairs: list[Pair], tmp_path: Path) -> None:
    known = reference_sums(lambda: model, pairs, tmp_path / "kept.jsonl", bf16=False)
    for pair in pairs:
        wanted = (naive_sum(model, pair.chosen), naive_sum(model, pair.rejected))
        assert known[content_key(pair)] == pytest.approx(wanted, abs=1e-4)
    batch = with_references({}, pairs[3:], known)["reference"]
    assert batch.tolist() == [pytest.approx(known[content_key(pair)]) for pair in pairs[3:]]
    assert "reference" not in collate(pairs, None)


def test_a_second_run_loads_no_model_and_has_the_same_bits(model: Any, pairs: list[Pair], tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    first = reference_sums(lambda: model, pairs, path, bf16=False)
    assert reference_sums(never, pairs[::-1], path, bf16=False) == first == kept_sums(path)
    some = reference_sums(lambda: model, pairs[2:4], tmp_path / "other.jsonl", bf16=False)
    assert all(first[key] == value for key, value in some.items())  # in any company


def test_only_what_is_owed_is_computed(
    model: Any, pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept.jsonl"
    whole = reference_sums(lambda: model, pairs, tmp_path / "whole.jsonl", bf16=False)
    asked: list[str] = []

    def counted(model: Any, pair: Pair, *, bf16: bool) -> references.Sums:
        asked.append(content_key(pair))
        if len(asked) == 4:
            raise KeyboardInterrupt
        return pair_sums(model, pair, bf16=bf16)

    monkeypatch.setattr(references, "CHUNK", 2)
    monkeypatch.setattr(references, "pair_sums", counted)
    with pytest.raises(KeyboardInterrupt):
        reference_sums(lambda: model, pairs, path, bf16=False)
    path.write_bytes(path.read_bytes()[:-9])  # and the last line is torn
    assert len(kept_sums(path)) == 1
    asked.clear()
    monkeypatch.setattr(references, "pair_sums", pair_sums)
    assert reference_sums(lambda: model, pairs, path, bf16=False) == whole == kept_sums(path)


def test_foreign_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    lines = ['["a", -1.5, -2.25]', "", "[1]", "{}", "null", '["b", "x", 1]', '["c", -1', "\x00"]
    path.write_text("\n".join(lines))
    assert kept_sums(path) == {"a": (-1.5, -2.25)}


def test_the_file_is_the_models_and_the_precisions_own(pairs: list[Pair]) -> None:
    files = {cache_path(model, bf16=bf16) for model in ("one", "two") for bf16 in (False, True)}
    assert len(files) == 4
    assert len({content_key(pair) for pair in pairs}) == 5
    pair = pairs[0]
    assert content_key(pair) != content_key(Pair(pair.rejected, pair.chosen, 1.0, "", ""))


def test_another_epoch_and_another_start_cost_no_pass(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, logged = rig.train("dpo", rig.settings("dpo", tmp_path / "one", tiny_model_dir))
    monkeypatch.setattr(references, "pair_sums", never)
    config = rig.settings("dpo", tmp_path / "two", tiny_model_dir, epochs=2, beta=0.2)
    _, again = rig.train("dpo", config)
    assert len(again) == 2 * len(logged)
    assert again[0]["loss"] == pytest.approx(logged[0]["loss"], abs=1e-6)


def test_bfloat16_sums_are_those_of_autocast(model: Any, pairs: list[Pair]) -> None:
    exact, rounded = (pair_sums(model, pairs[0], bf16=bf16) for bf16 in (False, True))
    assert 0 < abs(exact[0] - rounded[0]) < 0.5
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert tuple(answer_sums(model, pack_tokens([pairs[0].row])).tolist()) == rounded
    assert json.loads(json.dumps(rounded)) == list(rounded)
