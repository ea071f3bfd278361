"""The backend that answers with vLLM: a child process on loopback behind our own routes.

The child lives in an environment of its own and dies with this process. Only the two completion routes are forwarded,
with requests that our schema has accepted; everything else of vLLM's API stays unreachable.
Limits: vLLM does not run the calculator, and it parses special tokens that a user types.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from model.chat_format import visible_text
from tasks._process import die_with_parent
from tasks.chat.schema import ChatRequest, CompletionRequest, Generation, RequestError

START_SECONDS = 240.0
STOP_SECONDS = 20.0


class VllmBackend:
    """Starts vLLM in the constructor and waits for it in `wait`."""

    def __init__(
        self,
        folder: Path,
        name: str,
        context: int,
        venv: Path,
        dtype: str = "auto",
        eager: bool = True,
        max_rows: int = 16,
    ) -> None:
        """RequestError-free: a missing environment is a ValueError with the command that makes it."""
        command = venv / "bin" / "vllm"
        if not (venv / "installed").exists() or not command.exists():
            raise ValueError(f"vLLM is not installed in {venv}; next: `make install-vllm`, or use --backend engine")
        self.name, self.context, self.dtype = name, context, "float32" if dtype == "auto" else dtype
        self.key = secrets.token_hex(16)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        arguments = [
            str(command), "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--served-model-name", name,
            "--dtype", self.dtype, "--max-model-len", str(context), "--max-num-seqs", str(max_rows),
            "--chat-template-content-format", "string", "--disable-fastapi-docs",
        ]  # fmt: skip
        offline = {
            "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
            "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"), "VLLM_API_KEY": self.key,
        }  # fmt: skip
        self.process = subprocess.Popen(
            arguments + (["--enforce-eager"] if eager else []),
            env={**os.environ, **offline, "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"},
            preexec_fn=die_with_parent,
            start_new_session=True,
        )
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=httpx.Timeout(10, read=600),
            trust_env=False,
        )

    def wait(self, seconds: float = START_SECONDS) -> None:
        """Return once vLLM answers; ValueError when it ends or takes longer than `seconds`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ValueError(
                    f"vLLM ended with exit code {self.process.returncode} while starting; see its log above"
                )
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health", timeout=2, trust_env=False).status_code == 200:
                    return
            time.sleep(0.25)
        self.stop()
        raise ValueError(f"vLLM did not answer within {seconds:.0f} s; see its log above")

    def stop(self) -> None:
        """SIGTERM to the API server, whose workers follow; SIGKILL to all of them if they do not."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):  # the session is ours alone: nobody else's processes are in it
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    async def close(self) -> None:
        await self.client.aclose()
        await asyncio.to_thread(self.stop)

    async def health(self) -> dict[str, Any]:
        alive = self.process.poll() is None
        if not alive:
            raise RequestError(
                503, f"vLLM has ended with exit code {self.process.returncode}; next: start the server again"
            )
        return {"backend": "vllm", "dtype": self.dtype}

    async def chat(self, request: ChatRequest, connection: Request) -> Response:
        body = _body(request)
        body["messages"] = [_flat(message.plain()) for message in request.messages]
        return await self._forward("/v1/chat/completions", body)

    async def completion(self, request: CompletionRequest, connection: Request) -> Response:
        return await self._forward("/v1/completions", _body(request))

    async def _forward(self, path: str, body: dict[str, Any]) -> Response:
        body["model"] = self.name
        try:
            answer = await self.client.send(self.client.build_request("POST", path, json=body), stream=True)
        except httpx.TransportError as problem:
            raise RequestError(
                502, f"vLLM does not answer ({type(problem).__name__}); next: start the server again"
            ) from None
        if body.get("stream") and answer.status_code == 200:
            return StreamingResponse(_relay(answer), media_type="text/event-stream")
        content = await answer.aread()
        await answer.aclose()
        try:
            return JSONResponse(httpx.Response(200, content=content).json(), status_code=answer.status_code)
        except ValueError:
            raise RequestError(502, f"vLLM answered with status {answer.status_code} and no JSON") from None


async def _relay(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Bytes as they come; closing the connection when our reader has gone makes vLLM abort the request."""
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()


def _body(request: Generation) -> dict[str, Any]:
    return request.model_dump(exclude_none=True, exclude={"model"})


def _flat(message: dict[str, Any]) -> dict[str, str]:
    """vLLM's API has no place for calculator calls: of an assistant's parts only the text is sent."""
    return {"role": message["role"], "content": visible_text(message)}
