import pytest

from cai.records.shard import Shard


def test_a_share_is_a_number_out_of_all() -> None:
    assert Shard.of_text("1/1") == Shard(1, 1)
    assert Shard.of_text("3/16") == Shard(3, 16)
    assert [Shard(number, 12).folder for number in (1, 12)] == ["shard-01-of-12", "shard-12-of-12"]


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "-1/4", "1/0", "a/b", "1/2/3", " 1/2", "1.0/2", "\u0661/2"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no share of the work; write it as number/all, such as 3/16"):
        Shard.of_text(text)
