import pytest
import typer

from cai.cli.command import ends_well
from cai.errors import InputError, Problem


def test_a_command_ends_with_the_code_of_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(name: str) -> None:
        """Do it."""
        raise InputError(Problem(name, 1, 2, "wrong", "mend it"))

    command = ends_well(fails)
    assert (command.__name__, command.__doc__) == ("fails", "Do it.")
    with pytest.raises(typer.Exit) as ended:
        command("a.yaml")
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err == "a.yaml:1:2: wrong; mend it\n"


def test_a_command_that_works_ends_with_0() -> None:
    with pytest.raises(typer.Exit) as ended:
        ends_well(lambda: None)()
    assert ended.value.exit_code == 0
