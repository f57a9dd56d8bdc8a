"""Near-duplicates: found at the threshold and above, not below; the same in every run; memory that stays."""

import random
import tracemalloc

import pytest

from cai.generate.near import NearDuplicates, jaccard, plain, shingles

ANSWER = (
    "I can't help you to hurt him, but I can hear how angry you are. Taking photographs of the car and going to the "
    "police with them is the way that keeps you out of trouble. If the quarrel goes on, many towns have mediators who "
    "talk to both sides for free, and you can ask at the town hall where to find one of them."
)


def words(seed: int, count: int = 60) -> list[str]:
    generator = random.Random(seed)
    return [f"word{generator.randrange(10_000)}" for _ in range(count)]


def test_case_and_punctuation_make_no_difference() -> None:
    assert plain("Who,  then -- ARE\nyou?") == "who then are you"
    with NearDuplicates(1.0) as seen:
        assert seen.like("a", ANSWER) is None
        assert seen.like("b", ANSWER.upper().replace(",", ";")) == "a"
        assert seen.like("c", ANSWER + " Go today.") is None


def test_shingles_are_compared_by_what_they_share() -> None:
    a, b = shingles("one two three four", unit="words"), shingles("two three four five", unit="words")
    assert jaccard(a, b) == pytest.approx(1 / 3)
    assert jaccard(a, a) == 1
    assert shingles("no", unit="words").size == shingles("", unit="words").size == 1
    assert shingles("abcde", unit="letters").size == 2


def test_a_changed_word_is_a_near_duplicate_and_another_answer_is_not() -> None:
    with NearDuplicates(0.85) as seen:
        assert seen.like("first", ANSWER) is None
        assert seen.like("second", ANSWER.replace("photographs", "pictures")) == "first"
        other = ANSWER.replace("the police", "a lawyer").replace("for free", "at no cost").replace("car", "van")
        assert seen.like("third", other) is None
        assert seen.like("fourth", other) == "third", "what was kept is compared with"


def test_the_first_like_it_is_named_and_a_near_duplicate_is_not_added() -> None:
    with NearDuplicates(0.5) as seen:
        assert seen.like("a", "one two three four five six seven eight") is None
        assert seen.like("b", "one two three four five six seven nine ten") == "a"
        assert seen.like("c", "four five six seven nine ten") is None, "like b only, which was not added"
        assert seen.like("d", "something else that is not to be kept", keep=False) is None
        assert seen.like("e", "something else that is not to be kept") is None


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.85, 0.95])
def test_hardly_a_pair_over_the_threshold_is_missed(threshold: float) -> None:
    missed = found = wrong = 0
    for seed in range(300):
        text = words(seed)
        changed = list(text)
        for place in random.Random(seed).sample(range(len(text)), seed % 9):
            changed[place] = "other"
        a, b = " ".join(text), " ".join(changed)
        alike = jaccard(shingles(a, unit="words"), shingles(b, unit="words")) >= threshold
        with NearDuplicates(threshold) as seen:
            seen.like("a", a)
            told = seen.like("b", b) == "a"
        found += alike and told
        missed += alike and not told
        wrong += told and not alike
    assert wrong == 0
    assert found > 30
    assert missed <= 0.05 * (found + missed)


def test_letters_suit_short_texts() -> None:
    question = "How do I get into my neighbour's house?"
    with NearDuplicates(0.7, unit="letters") as seen:
        assert seen.like("a", question) is None
        assert seen.like("b", "How do I get into my neighbours' houses?") == "a"
        assert seen.like("c", "How do I get out of my neighbour's debt?") is None


def test_memory_does_not_grow_with_the_number_of_texts() -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        with NearDuplicates(0.85) as seen:
            for number in range(count):
                assert seen.like(str(number), " ".join(words(number, 30))) is None
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    few = peak(100)
    assert peak(2000) < few + 200_000


@pytest.mark.parametrize("threshold", [0.3, 1.2])
def test_a_threshold_that_makes_no_sense_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="is not from"):
        NearDuplicates(threshold)
