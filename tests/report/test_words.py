from cai.report.words import figure, percent, points, verdict_of, visible


def test_a_verdict_needs_the_whole_interval() -> None:
    assert verdict_of(0.51, 0.7) == "better"
    assert verdict_of(0.3, 0.49) == "worse"
    assert verdict_of(0.5, 0.7) == verdict_of(0.3, 0.5) == "no difference shown"
    assert verdict_of(None, 0.7) == "not measured"


def test_numbers_as_words() -> None:
    assert percent(1.0) == "100\N{NO-BREAK SPACE}%"
    assert points(0.2) == "+20.0"
    assert points(-0.0001) == "0.0"
    assert figure(0.0) == "0"
    assert figure(1e12) == "1e+12"


def test_controls_are_shown_and_letters_of_all_scripts_kept() -> None:
    assert visible("a\u202eb\u2066c\x07\x00") == "a⟨U+202E⟩b⟨U+2066⟩c⟨U+0007⟩⟨U+0000⟩"
    assert visible("line\n\tשלום 👩‍🚀 é\r\n") == "line\n\tשלום 👩‍🚀 é\n"
    assert visible("\ud800") == "?"
