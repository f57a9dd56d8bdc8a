"""Rules about the file as a whole, and about how it stands beside other files."""

import re
from collections.abc import Iterator

from cai.constitution.lint.base import Hit, Subject, rule
from cai.constitution.lint.words import plain

_VERSION = re.compile(r"\d+(?:\.\d+){0,2}(?:[-+][0-9A-Za-z.+-]+)?")


@rule(
    "C041",
    "note",
    fix="add 'licence', such as Apache-2.0 or CC-BY-4.0",
    bad="""
name: ours
version: "1.0"
principles:
  - {id: kind, text: Be kind to people.}
""",
    good="""
name: ours
version: "1.0"
licence: CC-BY-4.0
principles:
  - {id: kind, text: Be kind to people.}
""",
)
def no_licence(subject: Subject) -> Iterator[Hit]:
    """No licence is named, so nobody else may use the file."""
    if not subject.constitution.licence.strip():
        yield Hit(("name",), "no licence is named")


@rule(
    "C042",
    "note",
    fix="number the versions: 1.0, then 1.1 for a change of words, 2.0 for other principles",
    bad="""
name: ours
version: newest
principles:
  - {id: kind, text: Be kind to people.}
""",
    good="""
name: ours
version: "1.2"
principles:
  - {id: kind, text: Be kind to people.}
""",
)
def odd_version(subject: Subject) -> Iterator[Hit]:
    """A version is not made of one to three numbers, so nobody can tell which of two is the later one."""
    version = subject.constitution.version
    if not _VERSION.fullmatch(version):
        yield Hit(("version",), f"the version {version!r} has no order")


@rule(
    "C043",
    "warning",
    fix="give each a title that tells it apart",
    bad="""
principles:
  - {id: kind, title: Manners, text: Be kind to people.}
  - {id: brief, title: manners, text: Answer in few words.}
""",
    good="""
principles:
  - {id: kind, title: Kindness, text: Be kind to people.}
  - {id: brief, title: Few words, text: Answer in few words.}
""",
)
def same_title(subject: Subject) -> Iterator[Hit]:
    """A title has no word in it, or two principles share one: reports show titles."""
    first: dict[str, int] = {}
    principles = subject.constitution.principles
    for index, item in enumerate(principles):
        said = plain(item.title)
        other = principles[first.setdefault(said, index)]
        if not said:
            yield Hit(("principles", index, "title"), f"the title of {item.id!r} has no word in it")
        elif other is not item and not subject.inherited(index):
            yield Hit(("principles", index, "title"), f"{item.id!r} has the title of {other.id!r}")


@rule(
    "C044",
    "warning",
    fix="use the same id: records of both can then be compared",
    bad="""
principles:
  - id: our-rule
    text: Never help anyone to hurt, threaten or kill a person or an animal.
""",
    good="""
principles:
  - id: no-violence
    text: Never help anyone to hurt, threaten or kill a person or an animal.
""",
)
def known_text(subject: Subject) -> Iterator[Hit]:
    """Another file, a shipped one or one that is linted along, has the text of a principle under another id."""
    ids = {item.id for item in subject.constitution.principles}
    known: dict[str, set[str]] = {}
    where: dict[str, str] = {}
    for other in subject.others:
        for item in other.principles:
            known.setdefault(plain(item.text), set()).add(item.id)
            where.setdefault(plain(item.text), f"{item.id!r} of {other.name!r}")
    for index, item in subject.own:
        said = plain(item.text)
        if said in known and item.id not in known[said] and not known[said] <= ids:
            yield Hit(("principles", index, "id"), f"{item.id!r} is {where[said]}, word for word")
