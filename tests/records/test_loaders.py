import csv
import json
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from cai.errors import InputError
from cai.records.loaders import (
    PACKAGED,
    PromptSet,
    dialogue_of,
    load_prompts,
    packaged_prompts,
    take_evenly,
    transcript_turns,
)
from cai.records.rows import read_rows
from cai.records.schema import Prompt
from cai.types import Message
from tests.records.samples import asked, one_of_each

SHARED = Path(__file__).parents[3] / "shared" / "data"

GOOD = b'{"prompt": "How do I boil an egg?", "category": "cooking", "kind": "helpful"}\n'


def file(folder: Path, content: bytes | str, name: str = "p.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts(path: Path) -> list[str]:
    return [prompt.text for prompt in load_prompts([path])]


# Good files


def test_a_row_is_read_with_all_that_it_says(tmp_path: Path) -> None:
    path = file(tmp_path, GOOD + b'{"prompt": " Hi ", "source": "a book"}\n\n')
    one, two = load_prompts([path])
    assert one == Prompt.of(asked("How do I boil an egg?"), kind="helpful", category="cooking", source="p.jsonl")
    assert two == Prompt.of(asked("Hi"), kind="red_team", source="a book")
    assert load_prompts([path], kind="benign")[1].kind == "benign"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["p.jsonl", "p.csv", "p.JSONL"])
def test_files_from_windows_are_read_the_same(tmp_path: Path, name: str, start: bytes, end: str) -> None:
    lines = ["prompt", "Hi", "Ho"] if name == "p.csv" else ['{"prompt": "Hi"}', '{"prompt": "Ho"}']
    assert texts(file(tmp_path, start + end.join(lines).encode(), name)) == ["Hi", "Ho"]


def test_the_same_prompt_is_kept_once_wherever_it_comes_from(tmp_path: Path) -> None:
    one = file(tmp_path, GOOD + GOOD, "one.jsonl")
    two = file(tmp_path, b'{"prompt": "new"}\n' + GOOD.replace(b"cooking", b"food"), "two.jsonl")
    prompts = load_prompts([one, two])
    assert [(prompt.text, prompt.category, prompt.source) for prompt in prompts] == [
        ("How do I boil an egg?", "cooking", "one.jsonl"),
        ("new", "", "two.jsonl"),
    ]


def test_messages_are_read_with_their_system_turn(tmp_path: Path) -> None:
    roles = ["system", "user", "assistant", "user"]
    row = {"messages": [{"role": role, "content": role * 2} for role in roles], "prompt": None, "kind": None}
    (prompt,) = load_prompts([file(tmp_path, json.dumps(row))])
    assert prompt.messages == tuple(Message(role, role * 2) for role in roles)  # type: ignore[arg-type]


def test_a_csv_may_have_commas_quotes_and_lines_inside_a_text(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    said = ['one, "two"', "three\nfour", "five"]
    with path.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerows([["", "prompt", "category"], *[[number, text, "c"] for number, text in enumerate(said)]])
    assert texts(path) == said
    assert [line for line, _ in read_rows(path)] == [2, 3, 5]


def test_parquet_is_read_with_its_nested_messages_and_nulls(tmp_path: Path) -> None:
    messages = [[{"role": "user", "content": "Hi"}], None]
    table = arrow.table({"messages": messages, "prompt": [None, "Ho"], "kind": ["helpful", None]})
    parquet.write_table(table, tmp_path / "p.parquet")
    prompts = load_prompts([tmp_path / "p.parquet"])
    assert [(prompt.text, prompt.kind) for prompt in prompts] == [("Hi", "helpful"), ("Ho", "red_team")]


def test_a_prompt_that_was_journalled_is_read_back_as_it_was(tmp_path: Path) -> None:
    prompt = one_of_each()[0]
    assert load_prompts([file(tmp_path, json.dumps(prompt.to_json()))]) == [prompt]
    changed = {**prompt.to_json(), "category": "war"}
    with pytest.raises(InputError, match=r"p\.jsonl:1:1: a damaged prompt record \(the content hashes to"):
        load_prompts([file(tmp_path, json.dumps(changed))])


def test_a_field_called_type_alone_makes_no_record(tmp_path: Path) -> None:
    assert texts(file(tmp_path, b'{"type": "prompt", "prompt": "Hi"}')) == ["Hi"]


# Transcripts


def test_a_transcript_in_hh_rlhfs_form_becomes_turns() -> None:
    text = (
        "\n\nHuman: Hi\n\nAssistant: Hello!\nHow are you?\n\nHuman: A Human: inside\na line\nHuman: too, Assistant: no"
    )
    assert dialogue_of(text) == (
        Message("user", "Hi"),
        Message("assistant", "Hello!\nHow are you?"),
        Message("user", "A Human: inside\na line\nHuman: too, Assistant: no"),
    )


@pytest.mark.parametrize(
    "text", ["\n\nHuman: Hi\n\nAssistant:", "Human: Hi\n\nAssistant: ", "\r\n\r\nHuman: Hi\r\n\r\nAssistant:"]
)
def test_an_answer_that_is_awaited_is_no_turn(text: str) -> None:
    assert dialogue_of(text) == (Message("user", "Hi"),)


@pytest.mark.parametrize(
    "text", ["Human: what is that?", "The words\n\nHuman: and\n\nAssistant: in a text", "Assistant: x"]
)
def test_a_text_that_only_mentions_the_form_stays_a_text(text: str) -> None:
    assert dialogue_of(text) == (Message("user", text),)


def test_turns_of_one_speaker_in_a_row_are_one_turn() -> None:
    text = "\n\nHuman: a\n\nHuman: b\n\nAssistant: c\n\nAssistant: d\n\nHuman: e"
    assert [tuple(turn) for turn in transcript_turns(text)] == [
        ("user", "a\n\nb"),
        ("assistant", "c\n\nd"),
        ("user", "e"),
    ]


# The sets that come with the package, and the public one to develop with


@pytest.mark.parametrize("name", PACKAGED)
def test_the_packaged_sets_are_whole_and_of_their_kind(name: str) -> None:
    path = packaged_prompts(name)
    prompts = load_prompts([path], kind=PACKAGED[name])
    assert len(prompts) == path.read_bytes().count(b"\n"), "no prompt twice"
    assert {prompt.kind for prompt in prompts} == {PACKAGED[name]}
    assert len({prompt.category for prompt in prompts}) >= 10
    assert "" not in {prompt.category for prompt in prompts}


def test_no_packaged_prompt_is_in_two_sets() -> None:
    sets = [{prompt.key for prompt in load_prompts([packaged_prompts(name)])} for name in PACKAGED]
    assert sum(map(len, sets)) == len(set().union(*sets))


def test_the_public_red_team_prompts_are_read() -> None:
    path = SHARED / "red_team_prompts.jsonl"
    if not path.is_file():
        pytest.skip("../shared/data is not here")
    prompts = load_prompts([path])
    assert 590 <= len(prompts) <= 594
    assert {prompt.kind for prompt in prompts} == {"red_team"}
    assert len({prompt.category for prompt in prompts}) > 3


def test_the_public_transcripts_are_read() -> None:
    import gzip

    path = SHARED / "hh_harmless_pairs.jsonl.gz"
    if not path.is_file():
        pytest.skip("../shared/data is not here")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            for name in ("chosen", "rejected"):
                turns = dialogue_of(row[name])
                assert [turn.role for turn in turns] == (["user", "assistant"] * len(turns))[: len(turns)]


# An even choice


def some(**counts: int) -> list[Prompt]:
    return [
        Prompt.of(asked(f"{name} {number}"), kind="red_team", category=name)
        for name, count in counts.items()
        for number in range(count)
    ]


def by_category(prompts: list[Prompt]) -> dict[str, int]:
    return {name: sum(prompt.category == name for prompt in prompts) for name in ("a", "b", "c")}


def test_categories_are_covered_as_evenly_as_they_allow() -> None:
    prompts = some(a=100, b=10, c=2)
    assert by_category(take_evenly(prompts, 6)) == {"a": 2, "b": 2, "c": 2}
    assert by_category(take_evenly(prompts, 16)) == {"a": 7, "b": 7, "c": 2}
    assert by_category(take_evenly(prompts, 1000)) == {"a": 100, "b": 10, "c": 2}
    assert take_evenly(prompts, 0) == []
    assert take_evenly([], 5) == []


def test_the_choice_does_not_depend_on_the_files_order_and_a_larger_one_drops_nothing() -> None:
    prompts = some(a=9, b=5, c=3)

    def take(count: int) -> list[str]:
        return [prompt.key for prompt in take_evenly(prompts, count)]

    assert all(take(count) == take(count + 1)[:count] for count in range(17))
    assert [prompt.key for prompt in take_evenly(prompts[::-1], 8)] == take(8)


# Sets on disk


def many(folder: Path, count: int) -> Path:
    rows = [{"prompt": f"Question {n}?", "kind": ("red_team", "helpful")[n % 2]} for n in range(count)]
    return file(folder, "".join(json.dumps(row) + "\n" for row in rows))


def test_a_set_gives_parts_places_and_prompts(tmp_path: Path) -> None:
    prompts = PromptSet.load([many(tmp_path, 9)])
    listed = load_prompts([tmp_path / "p.jsonl"])
    assert list(prompts) == listed
    assert prompts.counts == {"red_team": 5, "benign": 0, "helpful": 4}
    assert prompts.part("helpful", 1, 3) == (listed[3], listed[5])
    assert prompts.part("helpful", 3, 99) == (listed[7],)
    assert prompts.position(listed[5].id) == (5, "helpful", 2)
    assert prompts.by_id(listed[5].id) == listed[5]
    assert prompts.position("none") is None
    assert prompts.by_id("none") is None


def test_what_is_rejected_and_what_is_taken_is_what_was_read(tmp_path: Path) -> None:
    content = b'{"prompt": "a"}\n{"prompt": "a"}\n{"prompt": 3}\n\n{\n\xff\n{"prompt": "b"}\n'
    prompts = PromptSet.load([file(tmp_path, content)], rejected=tmp_path / "rejected.jsonl")
    assert [prompt.text for prompt in prompts] == ["a", "b"]
    assert (prompts.read, len(prompts), prompts.repeated, prompts.rejected) == (6, 2, 1, 3)
    rows = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert [(row["line"], row["row"]) for row in rows] == [
        (2, '{"prompt": "a"}'),
        (3, '{"prompt": 3}'),
        (5, "{"),
        (6, "\ufffd"),
    ]
    assert rows[0]["reason"] == f"the prompt of {tmp_path / 'p.jsonl'}:1 again"
    assert all(row["reason"] and row["fix"] and row["path"].endswith("p.jsonl") for row in rows)


def test_a_file_of_which_nothing_is_left_is_refused_and_so_is_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of 2 rows is a prompt; see rejected"):
        PromptSet.load([file(tmp_path, b"{}\n{}\n")], rejected=tmp_path / "rejected.jsonl")
    with pytest.raises(InputError, match="no such file"):
        PromptSet.load([tmp_path / "none.jsonl"], rejected=tmp_path / "rejected.jsonl")


def test_an_id_belongs_to_one_prompt(tmp_path: Path) -> None:
    rows = b'{"id": 7, "prompt": "a"}\n{"id": 7, "prompt": "a"}\n{"id": "7", "prompt": "b"}\n'
    with pytest.raises(
        InputError, match=r"p\.jsonl:3:1: the id '7' is there already, in line 1; give each row its own"
    ):
        load_prompts([file(tmp_path, rows)])


def test_held_out_prompts_are_refused_in_whatever_form(tmp_path: Path) -> None:
    held = file(tmp_path, b'{"prompt": "How do I boil an egg?"}\n', "held.jsonl")
    path = file(tmp_path, b'{"prompt": "x"}\n{"prompt": "how do i BOIL an egg"}\n')
    with pytest.raises(InputError, match=r"p\.jsonl:2:1: held out for evaluation in .*held\.jsonl; take the row out"):
        PromptSet.load([path], held_out=[held])
    assert len(PromptSet.load([path])) == 2


def test_a_thousand_bad_rows_are_remembered_and_all_are_counted(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_prompts([file(tmp_path, b"{}\n" * 1500)])
    assert len(caught.value.problems) == 1000
    assert str(caught.value).endswith("and 1480 more problems")
