"""`cai serve-reward`: a preference model over HTTP, in the forms that trainers ask a remote reward in.

    POST /get_reward  {"query": [text, ...]} or {"messages": [[{"role", "content"}, ...], ...]}  ->  {"rewards": [...]}
    POST /classify    {"input": text or [text, ...]}  ->  {"data": [{"index": 0, "probs": [reward]}, ...]}

The first is OpenRLHF's (`messages`, where given, goes before `query`), the second vLLM's, which verl asks. A text is a
dialogue as the chat template renders it, and is read as that: marks in it are marks. Dialogues in `messages` are
rendered here, and their content can't become control. Rewards are raw scores.
"""

import json
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any

import typer

from cai.errors import InputError, Problem

MOST_BODY = 16 << 20
"""Bytes of a request."""

MOST_ROWS = 1024
"""Answers of a request, and those that are scored together."""

TIMEOUT = 30.0
"""Seconds that a client may be silent."""

Score = Callable[[Sequence[list[int]]], list[float]]
Ids = Callable[[Any], list[int]]
"""What a text or a list of messages is in ids; raises ValueError for one that is neither."""


class Batcher:
    """Scores what many requests ask at once in one batch, in a thread of its own."""

    def __init__(self, score: Score) -> None:
        """Start to wait for requests."""
        self._score = score
        self._queue: queue.Queue[tuple[list[list[int]], Future[list[float]]]] = queue.Queue()
        threading.Thread(target=self._work, daemon=True).start()

    def __call__(self, rows: list[list[int]]) -> list[float]:
        """Return a score per row; waits for it."""
        future: Future[list[float]] = Future()
        self._queue.put((rows, future))
        return future.result()

    def _work(self) -> None:
        while True:
            waiting = [self._queue.get()]
            while not self._queue.empty() and sum(len(rows) for rows, _ in waiting) < MOST_ROWS:
                waiting.append(self._queue.get())
            try:
                scores = self._score([row for rows, _ in waiting for row in rows])
            except Exception as error:  # one batch that fails must not end the server
                for _, future in waiting:
                    future.set_exception(error)
                continue
            start = 0
            for rows, future in waiting:
                future.set_result(scores[start : start + len(rows)])
                start += len(rows)


def reward_server(score: Score, ids: Ids, *, host: str = "127.0.0.1", port: int = 0) -> ThreadingHTTPServer:
    """Return a server, bound and not started; port 0 takes a free one. Raises InputError when it can't be had."""
    batcher = Batcher(score)

    class Handler(_Handler):
        def answer(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
            rewards = batcher([ids(each) for each in _asked(path, asked)])
            if path == "/get_reward":
                return {"rewards": rewards}
            return {"object": "list", "data": [{"index": n, "probs": [each]} for n, each in enumerate(rewards)]}

    try:
        return ThreadingHTTPServer((host, port), Handler)
    except (OSError, OverflowError) as error:
        raise InputError(Problem("--port", 0, 0, f"{host}:{port}: {error}", "name another port or host")) from error


def _asked(path: str, asked: dict[str, Any]) -> list[Any]:
    name = "input" if path == "/classify" else "messages" if "messages" in asked else "query"
    found = asked.get(name)
    if path == "/classify" and isinstance(found, str):
        found = [found]
    if not isinstance(found, list):
        raise ValueError(f"{name!r} is not a list")
    if not 1 <= len(found) <= MOST_ROWS:
        raise ValueError(f"{name!r} has {len(found)} entries; give 1 to {MOST_ROWS}")
    kind, word = (list, "list of messages") if name == "messages" else (str, "text")
    for number, each in enumerate(found):
        if not isinstance(each, kind) or not each:
            raise ValueError(f"{name}[{number}] is no {word}, or an empty one")
    return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT

    def answer(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Return what is asked for; raises ValueError for a bad request."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """Say that the server is up."""
        if self.path == "/health":
            self._send(200, {"status": "ok"})
        else:
            self._send(404, {"error": "POST to /get_reward or /classify"})

    def do_POST(self) -> None:
        """Score."""
        if self.path not in ("/get_reward", "/classify"):
            self._refuse(404, "POST to /get_reward or /classify")
            return
        size = self.headers.get("Content-Length", "")
        if not size.isdecimal():
            self._refuse(411, "no Content-Length")
        elif int(size) > MOST_BODY:
            self._refuse(413, f"the body has {size} bytes; at most {MOST_BODY} are read")
        else:
            self._score(self.rfile.read(int(size)))

    def _score(self, body: bytes) -> None:
        try:
            asked = json.loads(body)
            if not isinstance(asked, dict):
                raise ValueError("the body is not a JSON object")
            said = self.answer(self.path, asked)
        except (ValueError, RecursionError, InputError) as error:
            self._send(400, {"error": str(error)})
        except Exception as error:  # the model's: the client is told, and the server goes on
            self._send(500, {"error": f"{type(error).__name__}: {error}"})
        else:
            self._send(200, said)

    def _refuse(self, code: int, why: str) -> None:
        self.close_connection = True  # the body was not read
        self._send(code, {"error": why})

    def _send(self, code: int, said: dict[str, Any]) -> None:
        body = json.dumps(said).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request."""


def reading(renderer: Any, tokenizer: Any, *, max_length: int) -> Ids:
    """Return what turns a rendered text or messages that end with the assistant into ids; long ones lose their start.

    A rendered text that stops before the end of turn gets it: the score is read there.
    """
    from cai.records.loaders import dialogue_of

    end = renderer.answer_ids("", end_of_turn=True)

    def ids(asked: Any) -> list[int]:
        if isinstance(asked, str):
            # Templates write a line break after the end of turn; the score is read at the end of turn.
            row = list(tokenizer.encode(asked.rstrip(), add_special_tokens=False))
            if end and end[0] not in row[-len(end) :]:
                row += end
        else:
            dialogue = dialogue_of(asked)
            if dialogue[-1].role != "assistant":
                raise ValueError("a dialogue does not end with the assistant's answer")
            row = [*renderer.prompt_ids(dialogue[:-1]), *renderer.answer_ids(dialogue[-1].content, end_of_turn=True)]
        return row[-max_length:]

    return ids


def serve_reward(
    folder: Annotated[str, typer.Argument(help="The model folder of a reward stage.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 5000,
    host: Annotated[str, typer.Option(help="The default lets this machine in alone.")] = "127.0.0.1",
    head: Annotated[str | None, typer.Option(help="Which of its scores, where it has several.")] = None,
    max_length: Annotated[int, typer.Option(min=8, help="Tokens of a dialogue; longer ones lose their start.")] = 2048,
) -> None:
    """Serve a preference model as a remote reward: /get_reward (OpenRLHF) and /classify (verl).

    cai serve-reward runs/reward/model --port 5000
    """
    from cai.judges.preference_model import PreferenceModel, check_asked

    if check_asked(folder, head=head).wording is not None:
        problem = "this preference model judges by a principle, and requests name none"
        raise InputError(Problem(folder, 0, 0, problem, "serve one that was trained without principle_conditioned"))
    model = PreferenceModel.load(folder, head=head)
    server = reward_server(
        model.score_ids, reading(model.renderer, model.renderer.tokenizer, max_length=max_length), host=host, port=port
    )
    print(f"http://{host}:{server.server_address[1]}/get_reward", flush=True)
    try:
        server.serve_forever()
    finally:
        server.server_close()
