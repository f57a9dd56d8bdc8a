"""Cut-off texts, brought back to their last whole sentence."""

import pytest

from cai.records.trim import to_last_sentence


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("One. Two is cut", "One."),
        ("All of it!", "All of it!"),
        ('She said "no." Then', 'She said "no."'),
        ("Costs 3.5 euros and", ""),
        ("No end here", ""),
        ("", ""),
        ("A list:\n1. First thing\n2. Second one is good. And", "A list:\n1. First thing\n2. Second one is good."),
    ],
)
def test_a_text_ends_with_a_sentence(text: str, kept: str) -> None:
    assert to_last_sentence(text) == kept
