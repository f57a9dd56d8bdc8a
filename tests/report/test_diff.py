import time

from hypothesis import given
from hypothesis import strategies as st

from cai.report.diff import compare_words, share_changed

TEXTS = st.text(alphabet="ab .,\n'é", max_size=60)


@given(TEXTS, TEXTS)
def test_both_texts_can_be_read_back(before: str, after: str) -> None:
    segments = compare_words(before, after)
    assert "".join(text for change, text in segments if change != "new") == before
    assert "".join(text for change, text in segments if change != "gone") == after
    assert 0.0 <= share_changed(segments) <= 1.0
    assert all(text for _, text in segments)


def test_equal_texts_have_no_change() -> None:
    assert share_changed(compare_words("the same words", "the same words")) == 0.0
    assert compare_words("", "") == []


def test_a_new_answer_is_marked_whole() -> None:
    segments = compare_words("Sure, mix the two in a bucket.", "I will not explain this; ask a chemist.")
    assert [change for change, _ in segments] == ["gone", "new"]
    assert share_changed(segments) == 1.0


def test_very_long_texts_stay_quick() -> None:
    start = time.monotonic()
    compare_words("a b " * 50_000, "b a " * 50_000)
    assert time.monotonic() - start < 2.0
