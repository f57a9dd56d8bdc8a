"""Lists in plain text: numbered, bulleted, or one principle a line, wrapped or not.

In a list with marks (``1.``, ``2)``, ``(c)``, ``-``, ``*``, ``+``, ``•``) a mark at the list's own indent begins an
item. What follows without a mark, or under a deeper one, belongs to the item above: a wrapped line, a list within it.

In a list without marks each line is an item. A line goes on with the one above if it is indented further, or if it
begins with a small letter and the line above has not ended.

A blank line ends an item, unless what follows is indented under it. A line of ``# `` and words is a comment.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from cai.constitution.importers.base import File, Found

MARK = re.compile(r"[ \t]*(?:[-*•+]|\(?\d{1,4}[.):]|\(?[A-Za-z]\))(?:\s+|$)")
"""What an item of a list begins with."""

_COMMENT = re.compile(r"\s*#+(?:\s|$)")

_ENDED = (".", "!", "?", ":", ";", '."', ".”", ".)")


@dataclass
class Item:
    """An item and where it begins; lines and columns count from 1."""

    line: int
    col: int
    marked: bool
    """Whether it has a mark."""
    lines: list[str] = field(default_factory=list)
    """What it says: wrapped lines are one, those of a list within it are their own, "" is a blank one."""

    @property
    def text(self) -> str:
        """The whole."""
        return "\n".join(self.lines).strip()


def read_list(file: File, found: Found) -> None:
    """Take a list's items as principles; what leads into a list with marks ("Our rules:") as a note."""
    items = list(list_items(file.text))
    has_marks = any(item.marked for item in items)
    for item in items:
        if has_marks and not item.marked and item.text.endswith(":"):
            found.notes.append(item.text)
        elif item.text:
            found.add(file, (item.line, item.col), {"text": item.text})


def list_items(text: str) -> Iterator[Item]:
    r"""Yield the items of a text.

    >>> [item.text for item in list_items("1. Be kind\n   to all.\n2. Be brief:\n   - in words\n   - in lists\n")]
    ['Be kind to all.', 'Be brief:\n- in words\n- in lists']
    """
    lines = text.expandtabs(4).split("\n")
    marks = [_indent(line) for line in lines if MARK.match(line)]
    own = min(marks, default=None)
    item: Item | None = None
    blank = False
    for number, line in enumerate(lines, start=1):
        if not line.strip() or _COMMENT.match(line):
            blank = blank or item is not None
            continue
        if item is None or _begins(line, item, own, after_blank=blank):
            if item:
                yield item
            mark = MARK.match(line)
            item = Item(number, _indent(line) + 1, marked=mark is not None)
            item.lines.append(line[mark.end() if mark else 0 :].strip())
        else:
            _go_on(item, line, after_blank=blank)
        blank = False
    if item:
        yield item


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _begins(line: str, item: Item, own: int | None, *, after_blank: bool) -> bool:
    """Tell whether a line begins an item of its own, rather than going on with the one above."""
    indent = _indent(line)
    if own is not None and MARK.match(line):
        return indent <= own or not item.marked
    if after_blank:
        return indent <= item.col - 1
    if item.marked:
        return False
    return indent <= item.col - 1 and (item.text.endswith(_ENDED) or not line.lstrip()[0].islower())


def _go_on(item: Item, line: str, *, after_blank: bool) -> None:
    if after_blank:
        item.lines.append("")
    if after_blank or MARK.match(line):
        item.lines.append(line.strip())
    else:
        item.lines[-1] = f"{item.lines[-1]} {line.strip()}"
