"""`cai serve-reward` over real HTTP on loopback: both forms, many at once, and what is refused."""

import http.client
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from cai.cli import serve_reward as served
from cai.cli.main import app
from cai.cli.serve_reward import Batcher, reading, reward_server
from cai.errors import InputError
from cai.judges.preference_model import PreferenceModel
from cai.types import Message
from tests.judges.test_preference_model import classifier

CHAT = [{"role": "user", "content": "A fox?"}, {"role": "assistant", "content": "It is good."}]


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> PreferenceModel:
    return PreferenceModel.load(str(classifier(tiny_model_dir, tmp_path_factory.mktemp("pm") / "model")))


@pytest.fixture(scope="module")
def url(model: PreferenceModel, tiny_model_dir: Path) -> Iterator[str]:
    ids = reading(model.renderer, AutoTokenizer.from_pretrained(tiny_model_dir), max_length=400)
    server = reward_server(model.score_ids, ids)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_both_forms_give_the_score_that_the_model_gives(url: str, model: PreferenceModel, tiny_model_dir: Path) -> None:
    expected = model.score([((Message("user", "A fox?"),), "It is good.")])
    said = httpx.post(f"{url}/get_reward", json={"messages": [CHAT], "query": ["ignored"]}).json()
    assert said["rewards"] == pytest.approx(expected, abs=1e-5)
    text = str(AutoTokenizer.from_pretrained(tiny_model_dir).apply_chat_template(CHAT, tokenize=False))
    for query in (text, text.removesuffix("\n"), text.removesuffix("<|im_end|>\n")):
        said = httpx.post(f"{url}/get_reward", json={"query": [query, "Other."], "prompts": [], "labels": []}).json()
        assert len(said["rewards"]) == 2
        assert said["rewards"][0] == pytest.approx(expected[0], abs=1e-5)
    (one,) = httpx.post(f"{url}/classify", json={"model": "x", "input": query, "activation": False}).json()["data"]
    assert one == {"index": 0, "probs": [pytest.approx(expected[0], abs=1e-5)]}


def test_of_several_scores_one_is_served(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(classifier(tiny_model_dir, tmp_path / "two", heads=("harmless", "helpful")))
    done = CliRunner().invoke(app, ["serve-reward", folder, "--port", "0"])
    assert done.exit_code == 2
    assert "has the heads harmless, helpful; say which with 'head'" in done.stderr
    scores: list[Any] = []
    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", lambda _: None)
    server = served.reward_server

    def watched(score: Any, *rest: Any, **more: Any) -> ThreadingHTTPServer:
        scores.append(score)
        return server(score, *rest, **more)

    monkeypatch.setattr(served, "reward_server", watched)
    done = CliRunner().invoke(app, ["serve-reward", folder, "--port", "0", "--head", "helpful"])
    assert done.exit_code == 0, done.output
    assert scores[0]([[5, 6]]) == PreferenceModel.load(folder, head="helpful").score_ids([[5, 6]])


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        ("get_reward", b"{", "Expecting property name"),
        ("get_reward", b"[1]", "not a JSON object"),
        ("get_reward", b"\xff", "decode"),
        ("get_reward", b"{}", "'query' is not a list"),
        ("get_reward", b'{"query": []}', "has 0 entries"),
        ("get_reward", b'{"query": ["a", 3]}', "query[1] is no text"),
        ("classify", b'{"input": ""}', "input[0] is no text"),
        ("get_reward", json.dumps({"messages": [CHAT[:1]]}).encode(), "does not end with the assistant"),
        ("get_reward", json.dumps({"query": ["a"] * 1025}).encode(), "has 1025 entries"),
    ],
)
def test_bad_input_is_400_with_a_reason(url: str, path: str, body: bytes, why: str) -> None:
    said = httpx.post(f"{url}/{path}", content=body)
    assert said.status_code == 400
    assert why in said.json()["error"]


def test_a_body_too_large_or_of_unknown_size_is_not_read(url: str) -> None:
    for headers, code in (
        ({"Content-Length": str(served.MOST_BODY + 1)}, 413),
        ({}, 411),
        ({"Content-Length": "x"}, 411),
    ):
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        connection.putrequest("POST", "/get_reward")
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        assert connection.getresponse().status == code
        connection.close()


def test_other_places_are_not_there(url: str) -> None:
    assert httpx.post(f"{url}/other", json={}).status_code == 404
    assert httpx.get(f"{url}/other").status_code == 404
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}


def test_requests_at_once_are_scored_together_and_each_gets_its_own() -> None:
    sizes: list[int] = []
    first, go = threading.Event(), threading.Event()

    def score(rows: Any) -> list[float]:
        sizes.append(len(rows))
        first.set()
        go.wait(10)
        return [float(row[0]) for row in rows]

    batcher = Batcher(score)
    with ThreadPoolExecutor(9) as pool:
        alone = pool.submit(batcher, [[100]])
        assert first.wait(10)
        waiting = [pool.submit(batcher, [[number], [-number]]) for number in range(8)]
        while batcher._queue.qsize() < 8:
            pass
        go.set()
        assert alone.result() == [100.0]
        assert [each.result() for each in waiting] == [[number, -number] for number in range(8)]
    assert sizes == [1, 16]


def test_a_batch_that_fails_ends_its_requests_and_not_the_server() -> None:
    def score(rows: Any) -> list[float]:
        if rows[0] == [0]:
            raise RuntimeError("out of memory")
        return [1.0] * len(rows)

    server = reward_server(score, lambda text: [len(text) - 1])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/get_reward"
    said = httpx.post(url, json={"query": ["a"]})
    assert (said.status_code, said.json()) == (500, {"error": "RuntimeError: out of memory"})
    assert httpx.post(url, json={"query": ["ab"]}).json() == {"rewards": [1.0]}
    with pytest.raises(InputError, match="name another port"):
        reward_server(score, lambda text: [1], port=server.server_address[1])
    server.shutdown()
    server.server_close()
