"""The server's config: what is no address, no name of a key or no price is refused, and nothing secret is shown."""

import base64
import traceback
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import ValidationError

from cai.engines.server import REMOVED, Key, ServerConfig, link_local, url_problem
from cai.errors import InputError

SECRET = "sk-prod-Zx9/Qy7+Tt3=Uv5"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/v1",
        "https://api.example.com/v1/",
        "http://[::1]:8000/v1",
        "http://gpu-node:8000",
        "http://10.0.0.7/v1",
    ],
)
def test_addresses_of_servers_are_taken(url: str) -> None:
    assert url_problem(url) is None
    assert ServerConfig(base_url=url).base_url == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "localhost:8000/v1",
        "//host/v1",
        "ftp://host/v1",
        "file:///etc/passwd",
        "gopher://host:70/",
        "javascript:alert(1)",
        "http://",
        "http:///v1",
        "http://:8000/v1",
        "http://user@host/v1",
        "http://user:pass@host/v1",
        "http://good.example@169.254.169.254/v1",
        "http://host/v1?key=1",
        "http://host/v1?",
        "http://host/v1#x",
        "http://host\\@evil.example/v1",
        "http://ho st/v1",
        "http://host/v1\r\nX-Header: 1",
        "http://host\t/v1",
        "http://hóst/v1",
        "http://host:99999999/v1",
        "http://host:port/v1",
        "http://169.254.169.254/latest/meta-data",
        "http://169.254.0.1:8000/v1",
        "http://[fe80::1]/v1",
        "http://[fe80::1%25eth0]/v1",
        "http://[::ffff:169.254.169.254]/v1",
        "http://[2002:a9fe:a9fe::]/v1",
        "http://[::1/v1",
        "http://0251.0376.0251.0376/v1",
        "http://host:0/v1",
    ],
)
def test_other_addresses_are_refused_and_not_repeated(url: str) -> None:
    assert url_problem(url)
    with pytest.raises(ValidationError, match="base_url") as caught:
        ServerConfig(base_url=url)
    assert "pass@" not in str(caught.value)


def test_link_local_is_told_from_others() -> None:
    assert link_local("169.254.1.2")
    assert link_local("fe80::abcd%eth0")
    assert not link_local("169.253.1.2")
    assert not link_local("127.0.0.1")
    assert not link_local("host")


@pytest.mark.parametrize("name", [SECRET, "sk-abc", "gsk_a1b2c3d4", "$KEY", "${KEY}", "A B", "", "KEY=x"])
def test_a_key_in_the_place_of_its_name_is_refused_and_not_shown(name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ServerConfig(base_url="http://h/v1", api_key_env=name)
    assert "put the key there and its name here" in str(caught.value)
    assert len(name) < 6 or name not in str(caught.value)


def test_a_budget_of_money_needs_a_price() -> None:
    with pytest.raises(ValidationError, match="money_budget without a price"):
        ServerConfig(base_url="http://h/v1", money_budget=1.0)
    config = ServerConfig(base_url="http://h/v1", money_budget=1.0, completion_price=2.0, token_budget=7)
    budget = config.budget()
    assert (budget.tokens, budget.money) == (7, 1.0)
    assert budget.price(type(budget.used)(5, 1_000_000)) == 2.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"timeout": 0},
        {"timeout": float("inf")},
        {"retries": -1},
        {"backoff": -1},
        {"typo": 1},
    ],
)
def test_limits_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ServerConfig(base_url="http://h/v1", **wrong)


def test_every_field_has_a_docstring() -> None:
    assert all(field.description for name, field in ServerConfig.model_fields.items())


def test_a_key_is_read_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    key = Key("CAI_TEST_KEY")
    monkeypatch.delenv("CAI_TEST_KEY", raising=False)
    with pytest.raises(InputError, match="CAI_TEST_KEY holds no key"):
        key.value()
    monkeypatch.setenv("CAI_TEST_KEY", f"{SECRET}\n")
    assert key.value() == SECRET
    assert SECRET not in repr(key)
    assert Key(None).value() is None


@pytest.mark.parametrize("bad", [f"{SECRET} x", f"{SECRET}\r\nHost: evil", f"{SECRET}é"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    monkeypatch.setenv("CAI_TEST_KEY", bad)
    with pytest.raises(InputError, match="CAI_TEST_KEY") as caught:
        Key("CAI_TEST_KEY").value()
    assert SECRET[:8] not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        quote(SECRET, safe=""),
        base64.b64encode(SECRET.encode()).decode(),
        base64.b64encode(f"Bearer {SECRET}".encode()).decode(),
        SECRET[:8] + "*" * 12,
        SECRET[:8],
    ],
)
def test_a_key_is_taken_out_of_a_text(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setenv("CAI_TEST_KEY", SECRET)
    key = Key("CAI_TEST_KEY")
    for clean in (key.clean, key.clean_content):
        text = clean(f"wrong key '{form}' given")
        assert REMOVED in text
        assert form not in text
        assert text.startswith("wrong key '")
        assert text.endswith("given")


def test_a_word_in_the_place_of_a_key_stays_in_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAI_TEST_KEY", "EMPTY")
    key = Key("CAI_TEST_KEY")
    assert key.clean_content("EMPTY rooms") == "EMPTY rooms"
    assert key.clean("key EMPTY is wrong") == f"key {REMOVED} is wrong"
    assert Key(None).clean("any text") == "any text"
