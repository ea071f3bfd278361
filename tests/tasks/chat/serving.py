"""A real server on a free loopback port, in a thread of the test."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from model.engine.engine import Engine
from tasks.chat.backends import EngineBackend
from tasks.chat.server import build_app, listen


@dataclass
class Running:
    url: str
    client: httpx.Client
    backend: EngineBackend

    def chat(self, *texts: str, **fields: Any) -> httpx.Response:
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
        return self.client.post("/v1/chat/completions", json={"messages": messages, **fields})


@contextmanager
def serve(
    engine: Engine, api_key: str | None = None, max_waiting: int = 32, host: str = "127.0.0.1"
) -> Iterator[Running]:
    backend = EngineBackend(engine, "chat", {"do_sample": True, "temperature": 0.7, "top_k": 50}, max_waiting)
    opened = listen("127.0.0.1", 0)
    config = uvicorn.Config(build_app(backend, host, api_key), log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{opened.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            yield Running(url, client, backend)
    finally:
        server.should_exit = True
        thread.join(10)
        opened.close()


def wait_until(condition: Any, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False
