"""Records to test with: one of each type, and as many drafts as a test wants."""

from collections.abc import Iterator, Sequence

from cai.records.resume import Planned
from cai.records.schema import (
    Critique,
    Draft,
    Dropped,
    EvalResult,
    Preference,
    Prompt,
    Provenance,
    Record,
    Revision,
    short,
)
from cai.types import Dialogue, Message

PROVENANCE = Provenance(
    engine="scripted",
    model="script",
    seed=7,
    sampling={"temperature": 0.7, "top_k": 0, "max_new_tokens": 64, "stop": ("\n\nHuman:", "END")},
    constitution="c" * 64,
)


def asked(text: str) -> Dialogue:
    return (Message("user", text),)


def draft(number: int) -> Draft:
    text = f"answer {number} – “naïve” \n\u2028 🙂"
    key = short(["draft", number])
    return Draft(key=key, prompt="p", sample=number, text=text, finish_reason="stop", provenance=PROVENANCE)


def plan(count: int) -> list[Planned[int]]:
    return [Planned(draft(number).key, number) for number in range(count)]


def answer(items: Sequence[Planned[int]]) -> Iterator[Record]:
    for item in items:
        yield draft(item.work)


def one_of_each() -> list[Record]:
    prompt = Prompt.of(asked("How do I boil an egg?"), kind="helpful", category="cooking", source="mine.jsonl")
    return [
        prompt,
        draft(0),
        Critique(
            key="k1",
            prompt=prompt.id,
            answer=draft(0).id,
            round=1,
            principle="calm",
            text="too long",
            finish_reason="length",
            provenance=PROVENANCE,
        ),
        Revision(
            key="k2",
            prompt=prompt.id,
            critique="c",
            round=2,
            principle="calm",
            text="shorter",
            finish_reason="stop",
            provenance=PROVENANCE,
        ),
        preference(0.75),
        EvalResult(
            key="k4",
            prompt=prompt.id,
            messages=prompt.messages,
            kind="benign",
            candidate="one",
            parent="two",
            wins={"direction": 0.25, "pairwise": None},
            scores={"words": (3.0, 4.0)},
        ),
        Dropped(key="k5", stage="draft", prompt=prompt.id, reason="empty", text="..."),
    ]


def preference(prob_a: float) -> Preference:
    return Preference(
        key=f"k{prob_a}",
        prompt="p",
        messages=asked("How do I pick a lock?"),
        response_a="Like so",
        response_b="I won't say",
        prob_a=prob_a,
        judge="pairwise",
        principles=("calm", "kind"),
        prob_a_by_order=(0.7, 0.8),
        category="crime",
    )
