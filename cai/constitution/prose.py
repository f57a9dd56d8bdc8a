"""From a long document of prose to principles: its sections, paragraphs and lists, without losing a sentence.

A paragraph is a principle; a list is, too, when the paragraph before it leads into it with a colon, else each of its
items is one. Ordered lists under a heading that speaks of priorities become tiers; what a heading calls a hard
constraint becomes one. An id is made of the headings above and of the principle's own words, so a change somewhere else
in the document renames nothing. Words are kept as they are, Markdown within a line included.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from cai.constitution.model import Constitution
from cai.errors import InputError, Problem
from cai.strict_yaml import _FORBIDDEN as FORBIDDEN
from cai.strict_yaml import MAX_BYTES, Location, Place, Tree, validate

if TYPE_CHECKING:
    from markdown_it.token import Token

MOST = 4000
"""Characters in a principle's text; longer ones are cut between sentences, or between the items of a list."""

LAST_TIER = 99
"""The items of a longer list share it: a principle has no later one."""

_PRIORITIES = re.compile(
    r"\b(priorit\w+|precedence|hierarchy|rank(s|ed|ing)?|tiers?|(in|by|of) order(?! to)|order(ing)? of)\b", re.I
)
_HARD = re.compile(
    r"\b(hard[- ](constraint|limit|line|rule)s?|(bright|red)[- ]?lines?|never|must not|non-negotiable|inviolable"
    r"|absolute (limit|constraint|prohibition|rule)s?|prohibited|forbidden)\b",
    re.I,
)
_NEGATED = re.compile(r"\b(never|not|no|avoid|refuse|don['’]t|won['’]t|prohibited|forbidden|without)\b", re.I)
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)*_\]]*\s+")
_MARKER = re.compile(r"\s*(?:[-*+]|\d{1,9}[.)])(?:\s+|$)")
_COMMENT = re.compile(r"\s*<!--.*?-->\s*", re.S)


def prose_to_constitution(text: str, *, name: str) -> Constitution:
    """Return the constitution that a document of prose amounts to; `name` is its file, or what to call it.

    Raises InputError with line and column.
    """
    return validate(Constitution, prose_tree(text, name=name))


def prose_tree(text: str, *, name: str) -> Tree:
    """Return what a document of prose says in the form of a constitution's file; raises InputError."""
    text = checked(text, name)
    reader = _Reader(text)
    pieces = [part for piece in reader.pieces() for part in _cut(piece, name)]
    if not pieces:
        raise InputError(Problem(name, 1, 1, "there is no prose in this document", "write at least one paragraph"))
    seen: Counter[str] = Counter()
    principles = []
    for piece in pieces:
        key = _id(piece, reader.below_title(piece.path))
        seen[key] += 1
        principles.append(_principle(piece, key if seen[key] == 1 else f"{key}-{seen[key]}"))
    places: dict[Location, Place] = {("principles", index): (piece.line, 1) for index, piece in enumerate(pieces)}
    called = slug(PurePath(name).stem) or "constitution"
    data = {"name": called, "version": "1", "principles": principles}
    return Tree(name, data, {(): (1, 1), ("principles",): (1, 1), **places}, {})


def checked(text: str, name: str) -> str:
    """Return a text with plain line ends; raises InputError for characters that can't be seen, and for too much."""
    if len(text) > MAX_BYTES:
        raise InputError(Problem(name, 0, 0, "larger than 1 MiB", "split it into several files"))
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    problems = []
    for number, line in enumerate(text.split("\n"), start=1):
        if found := FORBIDDEN.search(line):
            problem = f"the character U+{ord(found.group()):04X}, which can't be seen"
            problems.append(Problem(name, number, found.start() + 1, problem, "remove it"))
    if problems:
        raise InputError(problems)
    return text


def slug(text: str, most: int = 64) -> str:
    """Return a text as small letters, digits and hyphens, cut between words; empty when it has none of them.

    >>> slug("Being broadly *safe*!")
    'being-broadly-safe'
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower().replace("'", "")
    whole = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if len(whole) <= most:
        return whole
    head = whole[: most + 1].rpartition("-")[0]
    return head or whole[:most]


@dataclass(frozen=True)
class _Piece:
    """What becomes one principle: its words, the headings above, where it begins, and how much it binds."""

    text: str
    path: tuple[str, ...]
    line: int
    priority: str | int | None = None
    context: str = ""
    """The sentence that leads into a list of tiers: it ends the principle's path."""
    head: str = ""
    """What is said again when a long list is cut: its lead-in, without which the items would mean something else."""


class _Reader:
    """Walks the blocks of a document, with the headings above them."""

    def __init__(self, text: str) -> None:
        """Parse the text."""
        from markdown_it import MarkdownIt

        parser = MarkdownIt("commonmark").enable("table").disable(["inline", "reference"], ignoreInvalid=True)
        self._tokens = parser.parse(text)
        self._lines = text.split("\n")
        self._titled = sum(token.type == "heading_open" and token.tag == "h1" for token in self._tokens) == 1
        self._headings: list[tuple[int, str, int]] = []
        self._listed: set[tuple[str, ...]] = set()
        """Sections that have a list."""

    def pieces(self) -> list[_Piece]:
        """Return what the document says, in its order."""
        found: list[_Piece] = []
        lead: _Piece | None = None
        empty: _Piece | None = None
        for index, end in self._blocks():
            token = self._tokens[index]
            if token.type == "heading_open" and not self._tokens[index + 1].content.strip():
                continue
            if token.type == "heading_open":
                found.extend(piece for piece in (lead, self._childless(empty, token)) if piece)
                lead, empty = None, self._heading(index)
                continue
            if not (block := self._block(index)):
                continue
            empty = None
            if token.type in ("bullet_list_open", "ordered_list_open"):
                found.extend(self._list(index, end, lead))
                lead = None
                continue
            found.extend([lead] if lead else [])
            lead = block if token.type == "paragraph_open" and block.text.rstrip("*_ ").endswith(":") else None
            found.extend([] if lead else [block])
        found.extend(piece for piece in (lead, empty) if piece)
        return [self._bound(piece) for piece in found]

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """Yield the first and last token of every block that is not inside another."""
        start = 0
        for index, token in enumerate(self._tokens):
            if token.level == 0 and token.nesting == 1:
                start = index
            elif token.level == 0 and token.nesting == -1:
                yield start, index
            elif token.level == 0 and token.nesting == 0:
                yield index, index

    @property
    def _path(self) -> tuple[str, ...]:
        return tuple(title for _, title, _ in self._headings)

    def _heading(self, index: int) -> _Piece:
        token, title = self._tokens[index], " ".join(self._tokens[index + 1].content.split())
        line = self._line(token)
        level = int(token.tag[1])
        while self._headings and self._headings[-1][0] >= level:
            self._headings.pop()
        above = self._path
        self._headings.append((level, title, line))
        return _Piece(title, above, line)

    def _childless(self, empty: _Piece | None, token: "Token") -> _Piece | None:
        """Return a heading with nothing under it, at the next one: its words would be lost otherwise."""
        return empty if empty and int(token.tag[1]) <= self._headings[-1][0] else None

    def _line(self, token: "Token") -> int:
        return (token.map or [0])[0] + 1

    def _source(self, token: "Token") -> list[str]:
        first, last = token.map or [0, 0]
        return self._lines[first:last]

    def _block(self, index: int) -> _Piece | None:
        token = self._tokens[index]
        if token.type == "hr":
            return None
        if token.type == "paragraph_open":
            text = _unwrapped(self._tokens[index + 1].content)
        else:
            text = "\n".join(self._source(token)).strip("\n").rstrip()
        if token.type == "html_block":
            text = _COMMENT.sub("", text)
        return _Piece(text.strip(), self._path, self._line(token)) if text.strip() else None

    def _list(self, index: int, end: int, lead: _Piece | None) -> Iterator[_Piece]:
        """Yield a list's items as principles, or the list as one when its lead-in is needed to read it."""
        path = self._path
        self._listed.add(path)
        tiers = self._tokens[index].type == "ordered_list_open" and self._speaks(_PRIORITIES)
        hard = "hard" if self._speaks(_HARD) else None
        if lead and not (tiers and not _NEGATED.search(lead.text)):
            whole = "\n".join(self._source(self._tokens[index])).rstrip()
            head = _SENTENCE_END.split(lead.text)[-1]
            yield _Piece(f"{lead.text}\n\n{whole}", path, lead.line, hard, head=head)
            return
        context = _SENTENCE_END.split(lead.text)[-1] if lead else ""
        if lead and (before := lead.text.removesuffix(context).strip()):
            yield _Piece(before, path, lead.line)
        number = 0
        for item in range(index, end):
            token = self._tokens[item]
            if token.type == "list_item_open" and token.level == 1:
                number += 1
                text = self._item(item)
                if text:
                    yield _Piece(
                        text, path, self._line(token), hard or (min(number, LAST_TIER) if tiers else None), context
                    )

    def _item(self, index: int) -> str:
        first, *others = self._source(self._tokens[index])
        marker = _MARKER.match(first)
        start = marker.end() if marker else 0
        dedented = [line[min(start, len(line) - len(line.lstrip())) :] for line in others]
        lines = "\n".join([first[start:], *dedented]).strip()
        one = self._tokens[index + 1].type == "paragraph_open" and self._tokens[index + 4].type == "list_item_close"
        return _unwrapped(lines) if one else lines

    def _speaks(self, what: re.Pattern[str]) -> bool:
        return any(what.search(title) for title in self.below_title(self._path))

    def below_title(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """Return headings without the document's title: a name is not a rule."""
        return path[1:] if self._titled and len(path) > 1 else path

    def _bound(self, piece: _Piece) -> _Piece:
        """Bind the paragraphs of a section of hard constraints that has no list, and let each say 'never' itself."""
        titles = self.below_title(piece.path)
        if piece.priority is None and titles and _HARD.search(titles[-1]) and piece.path not in self._listed:
            piece = replace(piece, priority="hard")
        if piece.priority == "hard" and not _NEGATED.search(piece.text):
            said = next((title for title in reversed(titles) if _NEGATED.search(title)), None)
            if said:
                return replace(piece, text=f"{said.rstrip(':.')}: {piece.text}")
        return piece


def _unwrapped(text: str) -> str:
    """Return a paragraph on one line; a line break that Markdown shows stays one."""
    lines = re.split(r"(?: {2,}|\\)\n", text)
    return "\n".join(" ".join(line.split()) for line in lines).strip()


def _cut(piece: _Piece, name: str) -> Iterator[_Piece]:
    """Yield a piece, or parts of it that are short enough: between lines if it has some, else between sentences."""
    if len(piece.text) <= MOST:
        yield piece
        return
    parts = [sentence for line in re.split(r"(?<=\n)", piece.text) for sentence in _sentences(line)]
    room = MOST - len(piece.head) - 2
    text = ""
    for part in parts:
        if len(part) > room:
            raise InputError(Problem(name, piece.line, 1, f"a sentence of {len(part)} characters", "split it"))
        if text and len(text) + len(part) > MOST:
            yield replace(piece, text=text.strip())
            text = f"{piece.head}\n\n" if piece.head else ""
        text += part
    if text.strip():
        yield replace(piece, text=text.strip())


def _sentences(line: str) -> Iterator[str]:
    """Yield a line's sentences with the space that follows them."""
    start = 0
    for end in _SENTENCE_END.finditer(line):
        yield line[start : end.end()]
        start = end.end()
    if line[start:]:
        yield line[start:]


def _id(piece: _Piece, headings: tuple[str, ...]) -> str:
    """Return an id of the nearest headings and the words; what stands elsewhere in the document does not matter."""
    said = "\x00".join([*piece.path, piece.text])
    where = slug("-".join(headings[-2:]), 48) or "section"
    return f"{where}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def _principle(piece: _Piece, key: str) -> dict[str, Any]:
    words = re.sub(r"[*_`#>|\[\]]+", "", piece.text).split()
    title = " ".join(words[:8]).rstrip(",;:.") + ("…" if len(words) > 8 else "")
    given: dict[str, Any] = {
        "id": key,
        "title": title[:120] or key,
        "text": piece.text,
        "path": [*piece.path, *([piece.context] if piece.context else [])],
    }
    if piece.priority is not None:
        given["priority"] = piece.priority
    before, colon, _ = piece.text.partition(":")
    if piece.priority == "hard" and colon and _NEGATED.search(before):
        given["framing"] = "avoid"
    return given
