"""Whether an answer is in the dialogue's own language, told by letters and by the commonest small words.

No model is asked, so this tells what can be told without one: another script, or another of fifteen languages when both
texts have enough of their small words. Where it can't tell, it says nothing. A dialogue that speaks of languages (a
translation, a word's meaning) may be answered in any.
"""

import re
import unicodedata
from collections import Counter
from functools import cache

from cai.types import Dialogue

FEWEST_LETTERS = 20
"""Letters below which an answer's script says nothing."""

FOREIGN = 0.3
"""Share of an answer's letters in scripts that the person doesn't use, from which the answer is another script's."""

FEWEST_WORDS = 12
"""Words below which an answer's language is not told."""

_SCRIPTS = {
    **{name: name.capitalize() for name in ("LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "BENGALI")},
    **{name: name.capitalize() for name in ("TAMIL", "TELUGU", "THAI", "HANGUL", "GEORGIAN", "ARMENIAN", "ETHIOPIC")},
    **dict.fromkeys(("CJK", "HIRAGANA", "KATAKANA"), "Chinese or Japanese"),
}
"""Scripts by the first word of their letters' Unicode names; letters of others are not counted."""

_SMALL_WORDS = {
    "English": "the of and to in is it you that for with this are not have be can i your how what do a was if they "
    "which should would could about from or at by we he she his her my me does did there will just",
    "German": "der die das und ist nicht ich sie es ein eine zu mit den dem von auf für wie wenn auch man wir kann",
    "French": "le la les de des et est un une je vous que pour pas dans ne ce qui sur avec il elle du au nous votre",
    "Spanish": "el la los las de y es que en un una por con no para se su lo como más pero cómo está usted qué del",
    "Italian": "il la che di e è un una per non con sono si come lo gli le ma del della questo anche mi nel più",
    "Portuguese": "o a os as de e é que em um uma para com não por se como mais mas você do da no na isso são",
    "Dutch": "de het een en van is niet dat ik je in op te met voor zijn hoe wat aan ook om maar naar jij",
    "Swedish": "och att det som en är inte jag på för av med den du har kan ett om hur till de så vad",
    "Danish or Norwegian": "og at det som en er ikke jeg på for af av med den du har kan et om hvordan til så hvad hva",
    "Polish": "w na nie się jest że z do jak co o ale jestem czy po tak za dla od może być",
    "Turkish": "bir ve bu da de için ne mi çok ile ben nasıl var değil gibi olarak daha kadar sen olan",
    "Indonesian": "yang dan di itu ini tidak dengan untuk saya anda adalah dari bagaimana bisa ke akan apa pada atau",
    "Vietnamese": "là và của có không tôi bạn cho một được những này với các để như người trong thế làm",
    "Russian": "и в не на я что с как это по но вы к у за от для так мне его если или чтобы быть",
    "Ukrainian": "і в не на я що з як це по але ви до у за від для так мені його якщо або щоб бути є та",
}
_LANGUAGES = {name: frozenset(words.split()) for name, words in _SMALL_WORDS.items()}
_SHARED = Counter(word for words in _LANGUAGES.values() for word in words)

_SPEAKS_OF_LANGUAGES = re.compile(
    r"translat|übersetz|tradu[cizs]|tłumacz|перев[еоё]д|переклад|翻[訳译譯]|번역|terjemah|çevir|dịch"
    r"|\b(?:language|alphabet|script|pronounce|haiku|poem in)|\bspeak(?:s|ing)? (?:in )?[A-Z]"
    r"|\b(?:english|french|german|spanish|italian|portuguese|dutch|swedish|danish|norwegian|finnish|polish|czech|russian"
    r"|ukrainian|greek|latin|turkish|arabic|persian|farsi|hebrew|hindi|urdu|bengali|tamil|thai|vietnamese|indonesian"
    r"|malay|chinese|mandarin|cantonese|japanese|korean|kanji|swahili|deutsch|englisch|anglais|français|inglés|español"
    r"|inglese|inglês|английск|русск|英語|英语|日本語|中文)",
    re.IGNORECASE,
)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)


@cache
def _script(letter: str) -> str | None:
    return _SCRIPTS.get(unicodedata.name(letter, "").split(" ")[0]) if letter.isalpha() else None


def scripts(text: str) -> Counter[str]:
    """Count a text's letters by script.

    >>> scripts("Ja, да!")
    Counter({'Latin': 2, 'Cyrillic': 2})
    """
    return Counter(script for letter in text if (script := _script(letter)))


def language(text: str, *, fewest: int = 4) -> str | None:
    """Return the language that a text's small words tell, or None.

    At least `fewest` of its words, and a fifth of all, are small words of it, and no other language has half its
    weight. A word that several languages have weighs less for each.
    """
    words = re.findall(r"[^\W\d_]+", text.casefold())
    hits = {name: [word for word in words if word in known] for name, known in _LANGUAGES.items()}
    weights = Counter({name: sum(1 / _SHARED[word] for word in found) for name, found in hits.items()})
    (name, most), (_, next_most) = weights.most_common(2)
    return name if len(hits[name]) >= max(fewest, len(words) / 5) and most >= 2 * next_most else None


def switched(dialogue: Dialogue, answer: str) -> str | None:
    """Return what an answer is written in when that is surely not what the person writes in."""
    asked = [message.content for message in dialogue if message.role == "user"]
    if not asked or _SPEAKS_OF_LANGUAGES.search("\n".join(message.content for message in dialogue)):
        return None
    prose = _CODE.sub(" ", answer)
    used, known = scripts(prose), scripts("\n".join(asked))
    letters = used.total()
    if letters >= FEWEST_LETTERS and known.total() >= 8:
        foreign = {script: count for script, count in used.items() if script not in known}
        if sum(foreign.values()) >= FOREIGN * letters:
            return max(foreign, key=lambda script: foreign[script])
    return _other_language(asked, prose)


def _other_language(asked: list[str], prose: str) -> str | None:
    if len(re.findall(r"[^\W\d_]+", prose)) < FEWEST_WORDS:
        return None
    answered = language(prose)
    spoken = {found for text in (*asked, "\n".join(asked)) if (found := language(_CODE.sub(" ", text), fewest=3))}
    return answered if answered and spoken and answered not in spoken else None
