"""From a long document of prose to principles: its sections, paragraphs and lists, without losing a sentence.

A paragraph is a principle. So is an item of a list; but where a paragraph that ends with a colon leads into items that
are no sentences of their own, the paragraph and the list are one. A numbered list becomes tiers where its heading, or
the paragraph before or after it, speaks of priorities. Hard constraints become one each, and say the lead-in again
where they would mean something else without ("the model never: …").

An id is made of the nearest headings and of the principle's own words, so a change somewhere else in the document
renames nothing. Words are kept as they are, Markdown within a line included. A document may begin with YAML between two
lines of ``---``, which gives the `name`, the `version`, the `description` and the `licence`.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from cai.constitution.model import Constitution
from cai.errors import InputError, Problem
from cai.strict_yaml import FORBIDDEN, MAX_BYTES, Location, Place, Tree, load, validate

if TYPE_CHECKING:
    from markdown_it.token import Token

MOST = 4000
"""Characters in a principle's text; longer ones are cut between sentences, or between the items of a list."""

LAST_TIER = 99
"""The items of a longer list share it: a principle has no later one."""

_PRIORITIES = re.compile(
    r"\b(priorit\w+|precedence|hierarchy|rank(s|ed|ing)?|tiers?|(in|by|of) order(?! to)|order(ing)? of"
    r"|when .*\bconflict)\b",
    re.I,
)
"""Headings over numbered lists of priorities."""

_RANKED = re.compile(
    r"\b(priorit(y|ies|i[sz]e[ds]?|i[sz]ing)|precedence|outranks?|order of importance)\b"
    r"|\bconflict\w*\b[^.]*\b(order|first|listed|rank\w*)\b",
    re.I,
)
"""Paragraphs before or after them."""

_ABSOLUTE = (
    r"(hard[- ](constraint|limit|line|rule)s?|(bright|red)[- ]?lines?|non-negotiable|inviolable"
    r"|absolute (limit|constraint|prohibition|rule)s?)"
)
_HARD = re.compile(
    rf"^never\b|\bnever(:|$| (do|does|allowed|permitted|acceptable|cross\w*)\b)|\b(what|things?|lines?)\b.*\bnever\b"
    rf"|\b({_ABSOLUTE}|must (not|never)|prohibited|forbidden)\b",
    re.I,
)
"""Headings over hard constraints."""

_HARD_LEAD = re.compile(rf"\b{_ABSOLUTE}\b", re.I)
"""Paragraphs that lead into a list of them."""

_NEGATED = re.compile(r"\b(never|not|no|avoid|refuse|don['’]t|won['’]t|prohibited|forbidden|without)\b", re.I)
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)[\"'”’)*_\]]*\s+(?![\sa-z])")
_MARKER = re.compile(r"\s*(?:[-*+]|\d{1,9}[.)])(?:\s+|$)")
_COMMENT = re.compile(r"\s*<!--.*?-->\s*", re.S)
_FRONT_KEYS = ("name", "version", "description", "licence")
_FRONT = re.compile(rf"---[ ]*\n((?=(?:(?!---).+\n)*?(?:{'|'.join(_FRONT_KEYS)}): )(?:(?!---).+\n)+)---[ ]*(?:\n|\Z)")


def prose_to_constitution(text: str, *, name: str) -> Constitution:
    """Return the constitution that a document of prose amounts to; `name` is its file, or what to call it.

    Raises InputError with line and column.
    """
    return validate(Constitution, prose_tree(text, name=name))


def prose_tree(text: str, *, name: str) -> Tree:
    """Return what a document of prose says in the form of a constitution's file; raises InputError."""
    front, text = _front(checked(text, name), name)
    pieces = [part for piece in _Reader(text).pieces() for part in _cut(piece, name)]
    if not pieces:
        raise InputError(Problem(name, 1, 1, "there is no prose in this document", "write at least one paragraph"))
    seen: Counter[str] = Counter()
    principles = []
    for piece in pieces:
        key = _id(piece)
        seen[key] += 1
        principles.append(_principle(piece, key if seen[key] == 1 else f"{key}-{seen[key]}"))
    data = {"name": slug(PurePath(name).stem) or "constitution", "version": "1"}
    data |= {key: front.data[key] for key in _FRONT_KEYS if key in front.data}
    values: dict[Location, Place] = {(): (1, 1), ("principles",): (1, 1)}
    values |= {(key,): place for key in _FRONT_KEYS if (place := front.values.get((key,)))}
    values |= {("principles", index): (piece.line, 1) for index, piece in enumerate(pieces)}
    return Tree(name, {**data, "principles": principles}, values, {})


def _front(text: str, name: str) -> tuple[Tree, str]:
    """Return the YAML that a document begins with, and the document with blank lines for it."""
    found = _FRONT.match(text)
    if not found:
        return Tree(name, {}, {}, {}), text
    tree = load(f"\n{found[1]}", name=name)
    if not isinstance(tree.data, dict):
        raise InputError(Problem(name, 2, 1, "not 'key: value' lines", "write them so, or remove both '---'"))
    return tree, "\n" * found[0].count("\n") + text[found.end() :]


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


def first_words(text: str) -> str:
    """Return how a text begins, without Markdown: a title for what has none.

    >>> first_words("Be *kind*, and be it to everyone whom you meet.")
    'Be kind, and be it to everyone whom…'
    """
    bare = re.sub(r"^\[\^[^\]]+\]:|(?<=\])\([^)\s]*\)", "", text)
    words = re.sub(r"[*_`#>|\[\]]+", "", bare).split()
    return (" ".join(words[:8]).rstrip(",;:.") + ("…" if len(words) > 8 else ""))[:120]


@dataclass(frozen=True)
class _Piece:
    """What becomes one principle: its words, the headings above, where it begins, and how much it binds."""

    text: str
    path: tuple[str, ...]
    where: str
    """What its id begins with."""
    line: int
    priority: str | int | None = None
    context: str = ""
    """The sentence that leads into its list and is not needed to read it: it ends the principle's path."""
    prefix: str = ""
    """What is said before it, for it would mean something else without: the lead-in, or the heading."""
    head: str = ""
    """The lead-in that its text begins with, which each part says again when it is cut."""


class _Reader:
    """Walks the blocks of a document, with the headings above them."""

    def __init__(self, text: str) -> None:
        """Parse the text."""
        from markdown_it import MarkdownIt

        parser = MarkdownIt("commonmark").enable("table").disable(["inline", "reference"], ignoreInvalid=True)
        self._tokens = parser.parse(text)
        self._lines = text.split("\n")
        self._titled = sum(token.type == "heading_open" and token.tag == "h1" for token in self._tokens) == 1
        self._headings: list[tuple[int, str]] = []
        self._listed: set[tuple[str, ...]] = set()
        """Sections that have a list."""

    def pieces(self) -> list[_Piece]:
        """Return what the document says, in its order."""
        found: list[_Piece] = []
        lead: _Piece | None = None
        empty: _Piece | None = None
        before = ""
        blocks = list(self._blocks())
        for number, (index, end) in enumerate(blocks):
            token = self._tokens[index]
            if token.type == "heading_open" and not self._tokens[index + 1].content.strip():
                continue
            if token.type == "heading_open":
                found.extend(piece for piece in (lead, self._childless(empty, token)) if piece)
                lead, empty, before = None, self._heading(index), ""
                continue
            if not (block := self._block(index)):
                continue
            empty = None
            if token.type in ("bullet_list_open", "ordered_list_open"):
                found.extend(self._list(index, end, lead, f"{before}\n{self._after(blocks, number)}"))
            elif lead and token.type != "paragraph_open":
                found.append(replace(lead, text=f"{lead.text}\n\n{block.text}", head=_last_sentence(lead.text)))
            else:
                found.extend([lead] if lead else [])
                lead = block if token.type == "paragraph_open" and block.text.rstrip("*_ ").endswith(":") else None
                before = block.text
                found.extend([] if lead else [block])
                continue
            lead, before = None, ""
        found.extend(piece for piece in (lead, empty) if piece)
        return [self._bound(piece) for piece in found]

    def _after(self, blocks: list[tuple[int, int]], number: int) -> str:
        """Return the paragraph after a block, unless it leads into something of its own."""
        index = blocks[number + 1][0] if number + 1 < len(blocks) else 0
        following = self._block(index) if index and self._tokens[index].type == "paragraph_open" else None
        return following.text if following and not following.text.endswith(":") else ""

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
        return tuple(title for _, title in self._headings)

    def _piece(self, text: str, line: int) -> _Piece:
        # A title counts only where there is nothing else: another one would change all ids.
        below = [title for level, title in self._headings if level > 1] or list(self._path)
        return _Piece(text, self._path, slug("-".join(below[-2:]), 48) or "section", line)

    def _heading(self, index: int) -> _Piece:
        token, title = self._tokens[index], " ".join(self._tokens[index + 1].content.split())
        level = int(token.tag[1])
        while self._headings and self._headings[-1][0] >= level:
            self._headings.pop()
        piece = self._piece(title, self._line(token))
        self._headings.append((level, title))
        return piece

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
            text = "\n".join(self._source(token)).strip("\n")
        if token.type == "html_block":
            text = _COMMENT.sub("", text)
        return self._piece(text.rstrip(), self._line(token)) if text.strip() else None

    def _list(self, index: int, end: int, lead: _Piece | None, around: str) -> Iterator[_Piece]:
        """Yield a list's items as principles, or the list as one when its lead-in is needed to read it."""
        self._listed.add(self._path)
        token = self._tokens[index]
        titles = self.below_title(self._path)
        hard = any(map(_HARD.search, titles)) or bool(lead and _HARD_LEAD.search(lead.text))
        ranked = any(map(_PRIORITIES.search, titles[-1:])) or _RANKED.search(around)
        tiers = token.type == "ordered_list_open" and bool(ranked)
        items = [item for item in range(index, end) if self._is_item(item)]
        if lead and not (hard or _apart(lead.text, map(self._item, items), tiers)):
            whole = "\n".join(self._source(token)).rstrip()
            yield replace(lead, text=f"{lead.text}\n\n{whole}", head=_last_sentence(lead.text))
            return
        context = _last_sentence(lead.text) if lead else ""
        if lead and (before := lead.text.removesuffix(context).strip()):
            yield replace(lead, text=before)
        for number, item in enumerate(items, start=int(token.attrGet("start") or 1)):
            if text := self._item(item):
                piece = self._piece(text, self._line(self._tokens[item]))
                tier = min(max(number, 1), LAST_TIER) if tiers else None
                needs = bool(context) and hard and not _stands_alone(text, context)
                yield replace(
                    piece,
                    priority="hard" if hard else tier,
                    prefix=context if needs else "",
                    context="" if needs else context,
                )

    def _is_item(self, index: int) -> bool:
        return self._tokens[index].type == "list_item_open" and self._tokens[index].level == 1

    def _item(self, index: int) -> str:
        first, *others = self._source(self._tokens[index])
        marker = _MARKER.match(first)
        start = marker.end() if marker else 0
        dedented = [line[min(start, len(line) - len(line.lstrip())) :] for line in others]
        lines = "\n".join([first[start:], *dedented]).strip()
        one = self._tokens[index + 1].type == "paragraph_open" and self._tokens[index + 4].type == "list_item_close"
        return _unwrapped(lines) if one else lines

    def below_title(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """Return headings without the document's title: a name is not a rule."""
        return path[1:] if self._titled and len(path) > 1 else path

    def _bound(self, piece: _Piece) -> _Piece:
        """Bind the paragraphs of a section of hard constraints that has no list, and let each say 'never' itself."""
        titles = self.below_title(piece.path)
        if piece.priority is None and titles and _HARD.search(titles[-1]) and piece.path not in self._listed:
            piece = replace(piece, priority="hard")
        if piece.priority == "hard" and not piece.prefix and not _NEGATED.search(piece.text):
            said = next((title for title in reversed(titles) if _NEGATED.search(title)), None)
            return replace(piece, prefix=f"{said.rstrip(':.')}:") if said else piece
        return piece


def _last_sentence(text: str) -> str:
    return _SENTENCE_END.split(text)[-1]


def _apart(lead: str, items: Iterable[str], tiers: bool) -> bool:
    """Tell whether the items of a list can be read without its lead-in, and each on its own."""
    return not _NEGATED.search(lead) and (tiers or all(not item or _stands_alone(item, lead) for item in items))


def _stands_alone(text: str, lead: str) -> bool:
    """Tell whether an item says the same without the lead-in of its list."""
    if _NEGATED.search(lead):
        return bool(_NEGATED.search(text))
    said = text.strip('*_()"“”')
    return said[:1].isupper() and said.endswith((".", "!", "?"))


def _unwrapped(text: str) -> str:
    """Return a paragraph on one line; a line break that Markdown shows stays one."""
    lines = re.split(r"(?: {2,}|\\)\n", text)
    return "\n".join(" ".join(line.split()) for line in lines).strip()


def _cut(piece: _Piece, name: str) -> Iterator[_Piece]:
    """Yield a piece, or parts of it that are short enough: between lines if it has some, else between sentences."""
    again = f"{piece.head}\n\n" if piece.head else ""
    room = MOST - len(piece.prefix) - 1
    if len(piece.text) <= room:
        yield piece
        return
    parts = [sentence for line in re.split(r"(?<=\n)", piece.text) for sentence in _sentences(line)]
    text = ""
    for part in parts:
        if len(part) > room - len(again):
            raise InputError(Problem(name, piece.line, 1, f"a sentence of {len(part)} characters", "split it"))
        if text and len(text) + len(part) > room:
            yield replace(piece, text=text.strip())
            text = again
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


def _id(piece: _Piece) -> str:
    """Return an id of the nearest headings and the words; what stands elsewhere in the document does not matter."""
    words = " ".join(piece.text.split())
    return f"{piece.where}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"


def _principle(piece: _Piece, key: str) -> dict[str, Any]:
    given: dict[str, Any] = {
        "id": key,
        "title": f"{piece.prefix} {first_words(piece.text)}".strip()[-120:] or key,
        "text": f"{piece.prefix} {piece.text}" if piece.prefix else piece.text,
        "path": [*piece.path, *([piece.context] if piece.context else [])],
    }
    if piece.priority is not None:
        given["priority"] = piece.priority
    before, colon, _ = given["text"].partition(":")
    if piece.priority == "hard" and colon and _NEGATED.search(before):
        given["framing"] = "avoid"
    return given
