"""Numbers and verdicts as a reader meets them: rounded, with their unit, and no surer than the data."""

from typing import Literal

Verdict = Literal["better", "worse", "no difference shown", "not measured"]

_BIDI = {point: f"⟨U+{point:04X}⟩" for point in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
_CONTROLS = {point: f"⟨U+{point:04X}⟩" for point in (*range(0x00, 0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0))}
_VISIBLE = {**_BIDI, **_CONTROLS, 0x0D: None}


def visible(text: str) -> str:
    """Return a text with its control characters written out.

    Characters that reorder what follows them could make a model's text read as something else; lone surrogates can't
    be written to a file.

    >>> visible("a" + chr(0x202E) + "b")
    'a⟨U+202E⟩b'
    """
    return text.translate(_VISIBLE).encode("utf-8", "replace").decode("utf-8")


def percent(value: float | None, digits: int = 0) -> str:
    r"""Return a share as a percentage.

    >>> percent(0.525), percent(0.525, 1), percent(None)
    ('52\xa0%', '52.5\xa0%', '–')
    """
    return "–" if value is None else f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def points(value: float | None) -> str:
    """Return a difference of shares in percentage points, with its sign.

    >>> points(-0.051), points(0.0)
    ('−5.1', '0.0')
    """
    if value is None:
        return "–"
    rounded = round(100 * value, 1)
    sign = "+" if rounded > 0 else "−" if rounded < 0 else ""
    return f"{sign}{abs(rounded):.1f}"


def figure(value: float | None, digits: int = 4) -> str:
    """Return a number in at most so many significant digits.

    >>> figure(0.69314), figure(12345.6), figure(2.0), figure(-0.00001234)
    ('0.6931', '12,346', '2', '−1.234e-05')
    """
    if value is None:
        return "–"
    shown = f"{value:,.0f}" if abs(value) >= 10_000 and abs(value) < 1e9 else f"{value:.{digits}g}"
    return "−" + shown[1:] if shown.startswith("-") else shown


def shorten(text: str) -> str:
    """Return a digest's first 12 characters, and any other text whole.

    >>> shorten("0123456789abcdef" * 4), shorten("0123456789abcdef")
    ('0123456789ab', '0123456789abcdef')
    """
    return text[:12] if len(text) >= 40 and set(text) <= set("0123456789abcdef") else text


def plain_name(name: str) -> str:
    """Return a key as words.

    >>> plain_name("red_team"), plain_name("cut_off")
    ('red-team', 'cut off')
    """
    return name.replace("red_team", "red-team").replace("_", " ").strip()


def verdict_of(low: float | None, high: float | None) -> Verdict:
    """Return what a win rate's 95 % interval shows: a difference only when it leaves out one half."""
    if low is None or high is None:
        return "not measured"
    if low > 0.5:
        return "better"
    return "worse" if high < 0.5 else "no difference shown"
