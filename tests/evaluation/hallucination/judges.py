"""A stub of an OpenAI-compatible endpoint on this machine, whose behaviour a test writes as a function."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, bytes, dict[str, str]]
"""Status, body, headers."""


class Stub:
    """What the endpoint was asked, and what it answers next."""

    def __init__(self, reply: Callable[["Stub", dict[str, Any]], Reply | None]) -> None:
        self.reply = reply
        self.lock = threading.Lock()
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.under_way = self.most_under_way = 0
        self.url = ""

    def texts(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.asked]


def says(text: str | None, status: int = 200, **headers: str) -> Reply:
    """A chat completion that says a text."""
    body = {"choices": [{"message": {"role": "assistant", "content": text}}]}
    return status, json.dumps(body).encode(), headers


@contextmanager
def endpoint(reply: Callable[[Stub, dict[str, Any]], Reply | None]) -> Iterator[Stub]:
    """Serve on loopback; a reply of None closes the connection without an answer."""
    stub = Stub(reply)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with stub.lock:
                stub.asked.append(body)
                stub.headers.append({**self.headers, "path": self.path})
                stub.under_way += 1
                stub.most_under_way = max(stub.most_under_way, stub.under_way)
            try:
                answer = stub.reply(stub, body)
            finally:
                with stub.lock:
                    stub.under_way -= 1
            if answer is None:
                self.close_connection = True
                return
            status, content, headers = answer
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    stub.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
