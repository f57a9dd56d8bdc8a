"""Where an HTTP server is and how it is to be asked: the config's section, checked before anything is sent.

The key is named, never given: the environment variable is read for each call, and its value is kept nowhere.
"""

import base64
import ipaddress
import os
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cai.budget import Budget
from cai.errors import InputError, Problem

Kind = Literal["auto", "vllm", "sglang", "llama.cpp", "ollama", "openai", "other"]

REMOVED = "[key removed]"

SECRET = 12
"""A key of at least so many characters is looked for in answers too, and by its beginning. Shorter ones are words that
local servers want in the place of a key."""


class ServerConfig(BaseModel):
    """An OpenAI-compatible server, and the limits of what is asked of it."""

    # A key or a password that stands in the wrong field must not be shown by the error that refuses it.
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    base_url: str
    """Where the API begins, version included: ``http://127.0.0.1:8000/v1``. No other host is ever spoken to."""
    kind: Kind = "auto"
    """Which server it is, where it does not say so itself; this decides what it can be asked for."""
    tokenizer: str | None = None
    """Folder, hub id or ``embedded``: the served model's tokenizer. With it prompts are made here, as for every other
    engine, and content can't become control; scores need it."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key."""
    concurrency: int = Field(default=32, ge=1, le=4096)
    """Calls under way at once."""
    timeout: float = Field(default=600.0, gt=0)
    """Seconds that one call may take, to the last byte of its answer."""
    connect_timeout: float = Field(default=10.0, gt=0)
    """Seconds to wait for a connection."""
    retries: int = Field(default=6, ge=0, le=100)
    """How often a call is made again after a fault that may pass."""
    backoff: float = Field(default=0.5, ge=0)
    """Seconds to wait before the first of them, on average; it doubles each time, to a minute."""
    max_body_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    """The largest answer that is read."""
    token_budget: int | None = Field(default=None, ge=1)
    """Tokens, read and written together, that may be spent."""
    money_budget: float | None = Field(default=None, gt=0)
    """Money that may be spent, by the two prices."""
    prompt_price: float = Field(default=0.0, ge=0)
    """Money for a million tokens read."""
    completion_price: float = Field(default=0.0, ge=0)
    """Money for a million tokens written."""

    @field_validator("base_url")
    @classmethod
    def _is_a_place(cls, value: str) -> str:
        problem = url_problem(value)
        if problem:
            raise ValueError(f"{problem}; write it like http://127.0.0.1:8000/v1")
        return value.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):
            raise ValueError("not the name of an environment variable; put the key there and its name here")
        return value

    @model_validator(mode="after")
    def _money_has_a_price(self) -> "ServerConfig":
        if self.money_budget is not None and not self.prompt_price + self.completion_price:
            raise ValueError("money_budget without a price; set prompt_price and completion_price")
        return self

    @property
    def host(self) -> str:
        """Host and port, as a name for people."""
        import httpx

        return httpx.URL(self.base_url).netloc.decode("ascii")

    def budget(self) -> Budget:
        """Return a full budget."""
        return Budget(
            tokens=self.token_budget,
            money=self.money_budget,
            prompt_price=self.prompt_price,
            completion_price=self.completion_price,
        )


@dataclass(frozen=True)
class Key:
    """A key, by the name of the variable that holds it."""

    name: str | None

    def value(self) -> str | None:
        """Read the key; raises InputError where there is none, or one that can't stand in a header."""
        if self.name is None:
            return None
        value = os.environ.get(self.name, "").strip()
        if not value:
            raise _problem(f"the environment variable {self.name} holds no key", "set it, or take the name out")
        if not re.fullmatch(r"[!-~]+", value):
            raise _problem(f"what {self.name} holds can't be a key: it has blanks or signs beyond ASCII", "mend it")
        return value

    def clean(self, text: str) -> str:
        """Return a text of the server's with the key taken out, in whatever form it is."""
        value = os.environ.get(self.name, "").strip() if self.name else ""
        if not value:
            return text
        forms = [re.escape(form) for form in {value, quote(value, safe=""), _base64(value), _base64(f"Bearer {value}")}]
        if len(value) >= SECRET:
            forms.append(re.escape(value[:8]) + r"[^\s\"'<>,;]*")
        return re.sub("|".join(sorted(forms, key=len, reverse=True)), REMOVED, text)

    def clean_content(self, text: str) -> str:
        """Do the same to what a model wrote, where short keys are ordinary words."""
        value = os.environ.get(self.name, "").strip() if self.name else ""
        return self.clean(text) if len(value) >= SECRET else text


def _base64(value: str) -> str:
    return base64.b64encode(value.encode()).decode().rstrip("=")


def url_problem(url: str) -> str | None:
    """Say what is wrong with a base address, without repeating it: it may hold a password."""
    import httpx  # the parser is the one that connects: two of them could disagree on the host

    if not re.fullmatch(r"[!-~]+", url) or "\\" in url:
        return "the address has blanks, backslashes or signs beyond ASCII"
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError, TypeError):
        return "not an address"
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        return "not an address that begins with http:// or https:// and a host"
    if parsed.port is not None and not 0 < parsed.port < 65536:
        return "no port has that number"
    if parsed.userinfo:
        return "the address holds a name or a password"
    if parsed.query or parsed.fragment or "?" in url or "#" in url:
        return "the address has a part after ? or #"
    return "a link-local address" if link_local(parsed.host) else None


def link_local(host: str) -> bool:
    """Tell whether an address is one of those under which clouds show machines their own secrets."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0].strip("[]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    return (mapped or address).is_link_local


def _problem(what: str, fix: str) -> InputError:
    return InputError(Problem("engine.server.api_key_env", 0, 0, what, fix))
