"""Each check with texts that it must catch and texts that it must let through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.generate.quality import (
    CHECKS,
    Candidate,
    Stage,
    copied,
    empty,
    examples,
    fault,
    finds_no_fault,
    garbled,
    language_switch,
    leaked,
    lost,
    refuses_to_criticise,
    repetitive,
    unchanged,
)
from cai.records.schema import Dropped, PromptKind
from cai.types import Message

KNIFE = (Message("user", "Which knife should I take to school to scare the others?"),)
EGG = (Message("user", "How long does an egg have to boil so that the yolk stays soft?"),)


def candidate(text: str, before: str = "", critique: str = "") -> Candidate:
    stage: Stage = "revision" if before else "draft"
    return Candidate(text=text, finish_reason="stop", before=before, critique=critique, stage=stage)


def criticism(text: str) -> Candidate:
    return Candidate(text=text, finish_reason="stop", stage="critique")


def answer(text: str, kind: PromptKind) -> Candidate:
    if kind == "red_team":
        before = "Take a long one and show it around."
        return Candidate(
            text=text, finish_reason="stop", stage="revision", kind=kind, dialogue=KNIFE, before=before, critique="Bad."
        )
    return Candidate(text=text, finish_reason="stop", kind=kind, dialogue=EGG)


@pytest.mark.parametrize("text", ["", " \n", "...", "– * –"])
def test_nothing_said_is_empty(text: str) -> None:
    assert empty(candidate(text)) == "empty"


@pytest.mark.parametrize("text", ["a", "42.", "да", "日本"])
def test_a_word_in_any_script_is_something(text: str) -> None:
    assert empty(candidate(text)) is None


def test_a_loop_is_repetitive_and_a_phrase_that_comes_back_is_not() -> None:
    assert repetitive(candidate("no " * 20)) == "repetitive"
    assert repetitive(candidate("I want to help you. " * 6)) == "repetitive"
    once = "one two three four five six seven eight nine ten eleven twelve"
    assert repetitive(candidate(f"{once} and once more: one two three.")) is None
    assert repetitive(candidate("ha ha ha ha ha")) is None, "too short to tell"


def test_a_loop_is_seen_where_words_are_not_set_apart() -> None:
    assert repetitive(candidate("我不能帮助你。" * 10)) == "repetitive"
    assert repetitive(candidate("a" * 200)) == "repetitive"
    text = "鸡蛋在沸水里煮六到七分钟，蛋黄就会保持柔软。煮好以后马上放进冷水里，这样比较容易剥壳，也不会继续变硬。"
    assert repetitive(candidate(text)) is None


def test_what_decoding_could_not_make_out_is_garbled() -> None:
    assert garbled(candidate("The ans\ufffd\ufffd is \ufffd here.")) == "garbled"
    assert garbled(candidate("}}}{{{;;;]]]((())))==++--//\\\\||<<>>~~^^%%$$##@@!! a")) == "garbled"
    table = "| egg | minutes |\n|-----|---------|\n| soft | 5 |\n| hard | 10 |"
    assert garbled(candidate(table)) is None
    assert garbled(candidate("```\n{{{{[[[[((((}}}}]]]]))))====++++----////\n```")) is None, "code is code"
    assert garbled(candidate("😀 😀 😀")) is None
    assert garbled(candidate("एक अंडे को छह मिनट तक उबालें, फिर उसे ठंडे पानी में रखें।")) is None


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot assist with this request.",
        "As an AI language model, I am not able to provide content of this kind.",
        "Sorry, I won’t engage in talk about weapons.",
    ],
)
def test_a_critic_that_declines_is_no_critic(text: str) -> None:
    assert refuses_to_criticise(criticism(text)) == "the critic refuses"
    assert refuses_to_criticise(candidate(text)) is None, "an answer may decline"


@pytest.mark.parametrize(
    "text",
    [
        "I can't defend any of this: the answer names a poison.",
        "The assistant says that it can't help with that, and then it helps.",
        "I can't help with that question, and neither should the answer have: it names a dose.",
        "It tells a child how to get a knife into a school.",
    ],
)
def test_a_critic_may_speak_of_refusing(text: str) -> None:
    assert fault(criticism(text)) is None


@pytest.mark.parametrize(
    "text",
    [
        "There is nothing harmful in this answer.",
        "The assistant's last response is not harmful or unethical. It declines and offers help.",
        "I see no problem here.",
        "The response is perfectly fine.",
        "The assistant's response does not contain any harmful or illegal advice.",
        "No changes are needed.",
    ],
)
def test_a_critique_that_finds_no_fault_is_one_of_its_own_kind(text: str) -> None:
    assert finds_no_fault(criticism(text)) == "the critic finds no fault"
    assert finds_no_fault(candidate(text)) is None


@pytest.mark.parametrize(
    "text",
    [
        "There is nothing wrong with wanting to help, but the answer gives away a dose.",
        "The answer is not harmless: it names a poison.",
        "The response is good at first. It should not have given the address.",
        "The assistant has no right to tell where she lives.",
        "The answer is cruel. There is nothing kind in it.",
        "The answer doesn't have a word of comfort for a person in pain.",
    ],
)
def test_a_critique_that_takes_it_back_finds_a_fault(text: str) -> None:
    assert finds_no_fault(criticism(text)) is None


def test_a_revision_that_speaks_of_the_answer_is_none() -> None:
    said = "The assistant's last answer is harmful because it names a weapon."
    assert fault(candidate(said, before="Take a knife.")) == "speaks of the answer in its place"
    assert fault(candidate("The answer is 42.")) is None, "a draft may say so"
    assert fault(candidate("I can't name the answer.", before="It is 42.")) is None


@pytest.mark.parametrize(
    "text",
    [
        "The answer should be kinder.",
        "Here's a revised version of the response: Please don't.",
        "Sure! Here is the rewritten answer:\n\nPlease don't.",
        "**Revision:** Please don't do this.",
        "I have removed the part about the knife.",
        "Thank you for your feedback. I will do better.",
        "You're right, my previous answer was wrong.",
        "I’ll rewrite it without the insult.",
    ],
)
def test_a_revision_that_speaks_to_the_critic_is_a_leaked_critique(text: str) -> None:
    assert leaked(candidate(text, before="Go away.")) == "speaks of the answer in its place"
    assert leaked(candidate(text)) is None


@pytest.mark.parametrize(
    "text",
    [
        "The answering machine is broken.",
        "The answer to your question is simple: don't.",
        "Here is a better way to calm down: breathe slowly.",
        "I have removed splinters before; hold the needle flat.",
        "Thank you for telling me this.",
        "You're right to be angry.",
    ],
)
def test_a_revision_may_use_the_words_of_one(text: str) -> None:
    assert leaked(candidate(text, before="Go away.")) is None


def test_a_copied_critique_is_no_revision() -> None:
    critique = "This is cruel and could hurt a child who already feels alone, and it offers no help at all."
    before = "Nobody likes you, and they are right."
    assert copied(candidate(f"{critique} Be kind.", before, critique)) == "copied from the critique"
    kind = "It hurts to feel alone. Is there somebody in your class with whom you could have lunch?"
    assert copied(candidate(kind, before, critique)) is None
    quoting = f"It should rather have said something like this: “{kind}”"
    assert copied(candidate(kind, before, quoting)) is None, "a critic may propose the words"
    assert copied(candidate(kind, f"{kind} Or not.", kind)) is None, "its words were the answer's"


def test_a_revision_must_change_more_than_white_space() -> None:
    assert unchanged(candidate("the  same\nwords", before="the same words")) == "equal to the answer before"
    assert unchanged(candidate("The same words!", before="the same, words")) == "equal to the answer before"
    assert unchanged(candidate("other words", before="the same words")) is None
    assert unchanged(candidate("🙂", before="🙁")) is None
    assert unchanged(candidate("a draft", before="")) is None
    assert unchanged(candidate("", before="")) is None


def test_an_answer_in_another_language_is_told_where_it_would_be_trained_on() -> None:
    german = "Es tut mir leid, aber ich kann dir dabei nicht helfen, denn das ist gefährlich und nicht erlaubt."
    assert language_switch(answer(german, "red_team")) == "switches to German"
    assert language_switch(answer(german, "helpful")) == "switches to German"
    draft = Candidate(text=german, finish_reason="stop", kind="red_team", dialogue=KNIFE)
    assert language_switch(draft) is None, "the next revision may come back"
    assert language_switch(answer("Please leave every knife at home, and talk to a teacher.", "red_team")) is None


@pytest.mark.parametrize(
    "text", ["Sure!", "Of course, I'd be happy to help you with that!", "Thank you for your question.", "Okay."]
)
def test_an_empty_phrase_has_lost_the_answer(text: str) -> None:
    assert lost(answer(text, "helpful")) == "lost the answer: an empty phrase"
    assert lost(answer(text, "red_team")) == "lost the answer: an empty phrase"


@pytest.mark.parametrize("text", ["Yes.", "6.", "Six minutes.", "Boil it for six minutes, then cool it."])
def test_a_short_answer_is_one(text: str) -> None:
    assert lost(answer(text, "helpful")) is None


@pytest.mark.parametrize(
    "text",
    [
        "I can't help with that.",
        "No.",
        "I'm sorry, but as an AI I am not able to do this.",
        "I will not answer this: it is against my guidelines.",
        "Please don't.",
    ],
)
def test_a_refusal_of_a_red_team_prompt_is_an_answer(text: str) -> None:
    assert fault(answer(text, "red_team")) is None


def test_rules_in_the_place_of_an_answer_have_lost_it() -> None:
    rules = "As an AI language model, I follow safety guidelines and value respectful conversations."
    assert lost(answer(rules, "helpful")) == "lost the answer: speaks of rules only"
    assert lost(answer(rules, "red_team")) == "lost the answer: speaks of rules only"
    about = f"{rules} A knife at school scares everybody, you included."
    assert lost(answer(about, "red_team")) is None


def test_a_greeting_may_be_answered_by_one() -> None:
    hello = (Message("user", "Hello, how are you today?"),)
    said = Candidate(text="I'm fine, thank you! How are you?", finish_reason="stop", kind="helpful", dialogue=hello)
    assert lost(said) is None


def test_the_first_reason_is_given() -> None:
    assert fault(candidate("", before="")) == "empty"
    assert fault(candidate("...", before="...")) == "empty"
    assert fault(candidate("word " * 30, before="word " * 30)) == "repetitive"
    assert fault(candidate("A kind answer.", before="A cruel answer.")) is None


@given(st.text(), st.text(), st.sampled_from(["draft", "critique", "revision"]))
def test_every_text_can_be_checked(text: str, before: str, stage: Stage) -> None:
    checked = Candidate(
        text=text, finish_reason="stop", stage=stage, before=before, critique=before, dialogue=(Message("user", text),)
    )
    found = fault(checked)
    assert found is None or found in {check(checked) for check in CHECKS}


def test_examples_are_the_same_whoever_wrote_them() -> None:
    dropped = [
        Dropped(key=f"k{number}", stage="draft", prompt="p", reason="empty" if number else "garbled", text="x" * 9)
        for number in range(6)
    ]
    found = examples(dropped, {"p": "What?"}, most=4)
    assert list(found) == ["draft: empty", "draft: garbled"]
    assert found["draft: empty"] == [{"prompt": "What", "text": "xxxx"}] * 3
    numbered = [record.model_copy(update={"text": record.key}) for record in dropped]
    assert examples(numbered, {}) == examples(numbered[::-1], {})
    assert [item["text"] for item in examples(numbered, {})["draft: empty"]] == ["k1", "k2", "k3"]
