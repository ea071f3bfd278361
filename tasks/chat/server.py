"""The chat server: OpenAI-compatible routes, the page, and `python -m tasks.chat.server`.

    GET /            the page          GET /v1/models              POST /v1/chat/completions
    GET /health      backend and load  POST /v1/completions

It listens on loopback; any other address needs an API key in the environment variable ZERO2CHAT_API_KEY.
"""

import argparse
import errno
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from tasks._errors import StageError
from tasks._runtime import load_runtime
from tasks.chat.backends import Backend, EngineBackend
from tasks.chat.guard import Guard, is_loopback
from tasks.chat.schema import ChatRequest, CompletionRequest, RequestError, parse

ROOT = Path(__file__).resolve().parents[2]
PAGE = Path(__file__).parent / "page"
KEY_VARIABLE = "ZERO2CHAT_API_KEY"
_PAGE_FILES = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
}


def build_app(backend: Backend, host: str = "127.0.0.1", api_key: str | None = None) -> Guard:
    """The ASGI application. StageError for a public address without a key."""
    if not is_loopback(host) and not api_key:
        raise StageError(
            f"host {host!r} is reachable from other machines and no API key is set; allowed without one: 127.0.0.1; "
            f"next: set {KEY_VARIABLE} or leave --host out"
        )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await backend.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(RequestError)
    async def refused(_: Request, problem: RequestError) -> Response:
        headers = {"Retry-After": "2"} if problem.status == 429 else None
        return JSONResponse(problem.body(), problem.status, headers)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, problem: HTTPException) -> Response:
        text = f"{request.method} {request.url.path}: {problem.detail}"
        return JSONResponse(RequestError(problem.status_code, text).body(), problem.status_code)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": backend.name, "context": backend.context, **await backend.health()}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {
            "id": backend.name,
            "object": "model",
            "created": 0,
            "owned_by": "zero2chat",
            "max_model_len": backend.context,
        }
        return {"object": "list", "data": [model]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await backend.chat(await read(request, ChatRequest, backend.name), request)

    @app.post("/v1/completions")
    async def completion(request: Request) -> Response:
        return await backend.completion(await read(request, CompletionRequest, backend.name), request)

    for route, (name, media_type) in _PAGE_FILES.items():
        _add_file(app, route, (PAGE / name).read_bytes(), media_type)
    return Guard(app, host, api_key)


def _add_file(app: FastAPI, route: str, content: bytes, media_type: str) -> None:
    async def file() -> Response:
        return Response(content, media_type=f"{media_type}; charset=utf-8")

    app.add_api_route(route, file, methods=["GET"])


async def read(request: Request, schema: type, name: str) -> Any:
    """The validated body of a request; RequestError for anything else, or for a model that is not served."""
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as problem:
        raise RequestError(400, f"the body is not JSON: {problem}") from None
    parsed = parse(schema, body)
    if parsed.model is not None and parsed.model != name:
        raise RequestError(
            404, f"model {parsed.model!r} is not served here; allowed: {name!r}", "model", "model_not_found"
        )
    return parsed


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, or StageError that names who holds the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
        opened.listen(128)
    except OSError as problem:
        opened.close()
        if problem.errno == errno.EADDRINUSE:
            raise StageError(
                f"port {port} on {host} is in use{port_owner(port)}; next: stop that program, or choose another port "
                f"with --port (0 takes a free one)"
            ) from None
        raise StageError(
            f"cannot listen on {host}:{port}: {problem.strerror}; next: choose another --host or --port"
        ) from None
    return opened


def port_owner(port: int) -> str:
    """' by NAME (pid N)' when the system tells, else nothing."""
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except (psutil.Error, OSError):
        return ""
    return ""


def arguments_parser() -> argparse.ArgumentParser:
    runtime = load_runtime(ROOT / "runtime.yaml")
    parser = argparse.ArgumentParser(prog="python -m tasks.chat.server", description="Serve a chat model.")
    parser.add_argument(
        "--model", type=Path, default=ROOT / "artifacts" / "export", help="exported folder (default: artifacts/export)"
    )
    parser.add_argument("--name", default="chat", help="name of the model in the API")
    parser.add_argument("--host", default=runtime.host)
    parser.add_argument("--port", type=int, default=runtime.port, help="0 takes a free port")
    parser.add_argument("--backend", choices=["engine", "vllm"], default="engine")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--device", default=runtime.device)
    parser.add_argument("--max-rows", type=int, default=16, help="replies generated side by side")
    parser.add_argument("--max-waiting", type=int, default=32, help="requests that may wait; more get status 429")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-vllm", help="environment of vLLM")
    return parser


def make_backend(options: argparse.Namespace) -> Backend:
    """The backend the command line asks for; StageError when it cannot be had."""
    import torch

    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if options.backend == "vllm":
            from tasks.chat.vllm import VllmBackend

            context = json.loads((options.model / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
            started = VllmBackend(
                options.model, options.name, context, options.venv, options.dtype, max_rows=options.max_rows
            )
            started.wait()
            return started
        return EngineBackend.from_folder(
            options.model, options.name, options.dtype, device, options.max_rows, options.max_waiting
        )
    except (ValueError, FileNotFoundError) as problem:
        raise StageError(f"{problem}") from None


def main(arguments: list[str] | None = None) -> int:
    """Serve until stopped; 1 and one message when that is impossible."""
    import uvicorn

    options = arguments_parser().parse_args(arguments)
    try:
        api_key = os.environ.get(KEY_VARIABLE) or None
        if not is_loopback(options.host) and not api_key:
            raise StageError(f"host {options.host!r} needs an API key; next: set {KEY_VARIABLE}, or leave --host out")
        opened = listen(options.host, options.port)
        app = build_app(make_backend(options), options.host, api_key)
    except StageError as problem:
        print(f"chat server: {problem}", file=sys.stderr)
        return 1
    host = f"[{options.host}]" if ":" in options.host else options.host
    print(f"chat server: listening on http://{host}:{opened.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=3, server_header=False
    )
    uvicorn.Server(config).run(sockets=[opened])
    return 0


if __name__ == "__main__":
    sys.exit(main())
