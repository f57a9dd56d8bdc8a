"""Switches of script and language, and all that is none."""

import pytest

from cai.generate.language import language, scripts, switched
from cai.types import Dialogue, Message

ENGLISH = "You can boil the egg for six minutes and then put it into cold water, so that it is easy to peel."
TEXTS = {
    "German": "Du kannst das Ei sechs Minuten kochen und es dann in kaltes Wasser legen, damit es sich gut schälen "
    "lässt.",
    "French": "Vous pouvez faire cuire un œuf pendant six minutes, puis le mettre dans de l'eau froide pour "
    "arrêter la cuisson.",
    "Spanish": "Puedes hervir el huevo durante seis minutos y luego ponerlo en agua fría para que no se cueza más "
    "por dentro.",
    "Italian": "Puoi bollire un uovo per sei minuti e poi metterlo in acqua fredda, così non si cuoce più e il "
    "guscio si toglie bene.",
    "Portuguese": "Você pode cozinhar o ovo por seis minutos e depois colocar em água fria, para que não cozinhe mais "
    "do que isso.",
    "Dutch": "Je kunt het ei zes minuten koken en dan in koud water leggen, zodat het niet verder gaart en je het "
    "goed kunt pellen.",
    "Swedish": "Du kan koka ägget i sex minuter och lägga det i kallt vatten så att det är lätt att skala för den "
    "som vill.",
    "Polish": "Możesz gotować jajko przez sześć minut, a po tym włożyć je do zimnej wody, żeby nie było za twarde "
    "i dało się obrać.",
    "Turkish": "Yumurtayı altı dakika kaynatıp daha sonra soğuk suya koymak iyi bir yol, ve bu kadar kolay; çok da "
    "güzel olan bir şey.",
    "Indonesian": "Anda bisa merebus telur selama enam menit dan menaruhnya di air dingin untuk membuat kulit itu "
    "mudah dikupas.",
}


def asked(text: str) -> Dialogue:
    return (Message("user", text),)


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_small_words_tell_the_language(name: str) -> None:
    assert language(TEXTS[name]) == name
    assert switched(asked("How do I boil an egg so that it is soft?"), TEXTS[name]) == name
    assert switched(asked(TEXTS[name]), TEXTS[name]) is None
    assert switched(asked(TEXTS[name]), ENGLISH) == "English"


def test_what_has_no_small_words_has_no_language() -> None:
    assert language("") is None
    assert language("Eggs, six minutes, cold water.") is None
    assert switched(asked("Wie koche ich ein Ei, wenn es weich sein soll?"), "Eggs: six minutes.") is None


def test_letters_are_counted_by_script() -> None:
    assert scripts("Ja, да! 日本の 42") == {"Latin": 2, "Cyrillic": 2, "Chinese or Japanese": 3}


@pytest.mark.parametrize(
    ("answer", "script"),
    [
        ("Варите яйцо шесть минут, затем положите его в холодную воду.", "Cyrillic"),
        ("鸡蛋在沸水里煮六分钟，然后马上放进冷水里，这样蛋黄就会很软。", "Chinese or Japanese"),
        ("Put the egg into boiling water, 然后煮六分钟再放进冷水里就可以吃了非常好", "Chinese or Japanese"),
        ("اسلق البيضة لمدة ست دقائق ثم ضعها في الماء البارد", "Arabic"),
    ],
)
def test_another_script_is_a_switch(answer: str, script: str) -> None:
    assert switched(asked("How do I boil an egg?"), answer) == script


def test_a_dialogue_in_its_own_script_is_none() -> None:
    russian = "Варите яйцо шесть минут, и потом положите его в холодную воду, чтобы оно не было твёрдым."
    assert switched(asked("Как мне сварить яйцо, чтобы оно было мягким?"), russian) is None
    assert switched(asked("Как мне сварить яйцо, чтобы оно было мягким?"), ENGLISH) == "Latin"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Translate 'boil the egg' for my aunt.", TEXTS["French"]),
        ("How would a German say that?", TEXTS["German"]),
        ("Who was Dostoevsky?", f"Fyodor Dostoevsky (Фёдор Достоевский) was a writer. {ENGLISH}"),
        ("What is the sum of angles?", "α + β + γ = 180°, so γ follows from the other two angles of the triangle."),
        (
            "Write a function for eggs.",
            "```python\n# Варите яйцо шесть минут, затем в холодную воду\n```\nHere you are.",
        ),
        ("?", TEXTS["German"]),
    ],
)
def test_what_may_be_in_another_language(question: str, answer: str) -> None:
    assert switched(asked(question), answer) is None


def test_any_turn_of_the_person_may_set_the_language() -> None:
    dialogue = (
        Message("user", "Kannst du mir sagen, wie ich das Ei koche?"),
        Message("assistant", "Ja."),
        Message("user", "And how do I get it out of the shell?"),
    )
    assert switched(dialogue, ENGLISH) is None
    assert switched(dialogue, TEXTS["German"]) is None
    assert switched(dialogue, TEXTS["Dutch"]) == "Dutch"


def test_nothing_asked_is_nothing_to_switch_from() -> None:
    assert switched((), TEXTS["German"]) is None
