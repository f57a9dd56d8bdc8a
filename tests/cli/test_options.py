from cai.cli.options import words_of


def test_options_come_after_the_settings_and_win() -> None:
    assert words_of(None, shard=None, keep_going=False) == []
    assert words_of(["shard=2/2", "seed=1"], shard="1/2", keep_going=False) == ["shard=2/2", "seed=1", "shard=1/2"]
    assert words_of(["keep_going=false"], shard=None, keep_going=True)[-1] == "keep_going=true"
