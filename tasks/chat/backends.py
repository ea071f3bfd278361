"""The backend that answers with our own engine (vllm.py holds the other one; server.py sees only `Backend`)."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from tasks.chat.schema import ChatRequest, CompletionRequest, Generation, RequestError
from tasks.chat.worker import EngineFailedError, EngineWorker, QueueFullError, Ticket

if TYPE_CHECKING:
    from model.engine.engine import Engine
    from model.engine.row import StreamEvent
    from model.engine.sampling import Sampling


class Backend(Protocol):
    """What the server needs of whatever computes the replies."""

    name: str
    """The model's name in the API."""
    context: int

    async def chat(self, request: ChatRequest, connection: Request) -> Response: ...

    async def completion(self, request: CompletionRequest, connection: Request) -> Response: ...

    async def health(self) -> dict[str, Any]: ...

    async def close(self) -> None: ...


class EngineBackend:
    """Requests become tickets of one worker; events become JSON or server-sent events."""

    def __init__(self, engine: "Engine", name: str, defaults: dict[str, Any], max_waiting: int = 32) -> None:
        """`defaults`: generation_config.json; its temperature and top_k apply when a request names none."""
        self.engine, self.name, self.context = engine, name, engine.context
        self.temperature = float(defaults.get("temperature", 0.7)) if defaults.get("do_sample", True) else 0.0
        self.top_k = defaults.get("top_k")
        self.worker = EngineWorker(engine, max_waiting)

    @classmethod
    def from_folder(
        cls, folder: Path, name: str, dtype: str, device: str, max_rows: int, max_waiting: int = 32
    ) -> "EngineBackend":
        from model.engine.engine import Engine

        engine = Engine.from_folder(folder, dtype, device, max_rows=max_rows)
        file = folder / "generation_config.json"
        defaults = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return cls(engine, name, defaults, max_waiting)

    async def health(self) -> dict[str, Any]:
        return {
            "backend": "engine",
            "dtype": str(self.engine.forward.dtype).removeprefix("torch."),
            **self.worker.counts(),
        }

    async def close(self) -> None:
        await asyncio.to_thread(self.worker.stop)

    async def chat(self, request: ChatRequest, connection: Request) -> Response:
        from model.chat_format import render_prompt

        try:
            prompt = render_prompt(self.engine.tokenizer, [message.plain() for message in request.messages])
        except ValueError as problem:
            raise RequestError(400, str(problem), "messages") from None
        limit = request.max_completion_tokens or request.max_tokens
        return await self._answer(request, prompt, limit, ChatFormat(self.name), connection)

    async def completion(self, request: CompletionRequest, connection: Request) -> Response:
        tokenizer = self.engine.tokenizer
        prompt = request.prompt
        ids = [tokenizer.bos_id, *tokenizer.encode(prompt)] if isinstance(prompt, str) else list(prompt)
        return await self._answer(request, ids, request.max_tokens or 16, CompletionFormat(self.name), connection)

    async def _answer(
        self, request: Generation, prompt: list[int], limit: int | None, layout: "ChatFormat", connection: Request
    ) -> Response:
        sampling = self._sampling(request, limit)
        try:
            ticket = self.worker.submit(prompt, sampling, request.n or 1)
        except QueueFullError as problem:
            raise RequestError(429, str(problem), None, "queue_full") from None
        except ValueError as problem:
            code = "context_length_exceeded" if "context" in str(problem) else None
            raise RequestError(400, str(problem), "messages", code) from None
        layout.seed = sampling.seed
        if request.stream:
            usage = bool(request.stream_options and request.stream_options.include_usage)
            return StreamingResponse(self._events(ticket, layout, usage), media_type="text/event-stream")
        whole = asyncio.create_task(self._whole(ticket, layout))
        gone = asyncio.create_task(_disconnected(connection))
        try:
            await asyncio.wait({whole, gone}, return_when=asyncio.FIRST_COMPLETED)
            if whole.done():
                return JSONResponse(whole.result())
            raise RequestError(499, "the client closed the connection")  # nobody reads this; the log may
        except EngineFailedError as problem:
            raise RequestError(500, str(problem)) from None
        finally:
            self.worker.cancel(ticket)
            whole.cancel()
            gone.cancel()

    def _sampling(self, request: Generation, limit: int | None) -> "Sampling":
        from model.engine.sampling import Sampling

        top_k = request.top_k if request.top_k is not None else self.top_k
        return Sampling(
            temperature=self.temperature if request.temperature is None else request.temperature,
            top_k=top_k if top_k and top_k > 0 else None,
            top_p=1.0 if request.top_p is None else request.top_p,
            seed=secrets.randbits(32) if request.seed is None else request.seed % 2**64,
            max_tokens=limit or self.context,
            stop=request.stops,
        )

    async def _whole(self, ticket: Ticket, layout: "ChatFormat") -> dict[str, Any]:
        choices = [layout.new_choice(number) for number in range(len(ticket.rows))]
        async for number, event in _incoming(ticket):
            layout.extend(choices[number], event)
        return {**layout.head(whole=True), "choices": choices, "usage": _usage(ticket), "timings": timings(ticket)}

    async def _events(self, ticket: Ticket, layout: "ChatFormat", usage: bool) -> AsyncIterator[str]:
        try:
            for number in range(len(ticket.rows)):
                first = layout.first_chunk(number)
                if first is not None:
                    yield _sse({**layout.head(), "choices": [first]})
            async for number, event in _incoming(ticket):
                chunk = layout.chunk(number, event)
                if chunk is None:
                    continue
                extra = {"timings": timings(ticket)} if event.finish_reason else {}
                yield _sse({**layout.head(), "choices": [chunk], **extra})
            if usage:
                yield _sse({**layout.head(), "choices": [], "usage": _usage(ticket)})
        except EngineFailedError as problem:
            yield _sse(RequestError(500, str(problem)).body())
        finally:
            self.worker.cancel(ticket)
        yield "data: [DONE]\n\n"


class ChatFormat:
    """The JSON of /v1/chat/completions. `parts` is our extension: the reply with its calculator calls."""

    kind, prefix = "chat.completion", "chatcmpl"

    def __init__(self, name: str) -> None:
        self.id, self.created, self.name = f"{self.prefix}-{secrets.token_hex(12)}", int(time.time()), name
        self.seed = 0

    def head(self, whole: bool = False) -> dict[str, Any]:
        kind = self.kind if whole or self.kind == "text_completion" else f"{self.kind}.chunk"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.name, "seed": self.seed}

    def new_choice(self, number: int) -> dict[str, Any]:
        return {"index": number, "message": {"role": "assistant", "content": "", "parts": []}, "finish_reason": None}

    def extend(self, choice: dict[str, Any], event: "StreamEvent") -> None:
        message = choice["message"]
        message["content"] += event.text
        for part in _parts(event):
            if part["type"] == "text" and message["parts"] and message["parts"][-1]["type"] == "text":
                message["parts"][-1]["text"] += part["text"]
            else:
                message["parts"].append(part)
        choice["finish_reason"] = event.finish_reason

    def first_chunk(self, number: int) -> dict[str, Any] | None:
        return {"index": number, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}

    def chunk(self, number: int, event: "StreamEvent") -> dict[str, Any] | None:
        delta: dict[str, Any] = {"content": event.text} if event.text else {}
        if event.tool_call:
            delta["parts"] = [part for part in _parts(event) if part["type"] != "text"]
        if not delta and event.finish_reason is None:
            return None
        return {"index": number, "delta": delta, "finish_reason": event.finish_reason}


class CompletionFormat(ChatFormat):
    """The JSON of /v1/completions."""

    kind, prefix = "text_completion", "cmpl"

    def new_choice(self, number: int) -> dict[str, Any]:
        return {"index": number, "text": "", "logprobs": None, "finish_reason": None}

    def extend(self, choice: dict[str, Any], event: "StreamEvent") -> None:
        choice["text"] += event.text
        choice["finish_reason"] = event.finish_reason

    def first_chunk(self, number: int) -> dict[str, Any] | None:
        return None

    def chunk(self, number: int, event: "StreamEvent") -> dict[str, Any] | None:
        if not event.text and event.finish_reason is None:
            return None
        return {"index": number, "text": event.text, "logprobs": None, "finish_reason": event.finish_reason}


def timings(ticket: Ticket) -> dict[str, float]:
    """Milliseconds as vLLM's per-request metrics name them, and tokens per second after the first token."""
    now = time.perf_counter()
    generated = max(len(row.ids) for row in ticket.rows)
    seconds = max(now - ticket.first_token, 1e-9)
    return {
        "queue_time_ms": round((ticket.started - ticket.arrived) * 1e3, 2),
        "time_to_first_token_ms": round((ticket.first_token - ticket.arrived) * 1e3, 2),
        "generation_time_ms": round((now - ticket.started) * 1e3, 2),
        "tokens_per_second": round((generated - 1) / seconds, 1) if generated > 1 else 0.0,
    }


def _parts(event: "StreamEvent") -> list[dict[str, str]]:
    parts = [{"type": "text", "text": event.text}] if event.text else []
    if event.tool_call:
        expression, result = event.tool_call
        parts.append({"type": "python", "text": expression})
        if result is not None:
            parts.append({"type": "output", "text": result})
    return parts


def _usage(ticket: Ticket) -> dict[str, int]:
    generated = sum(len(row.ids) for row in ticket.rows)
    prompt = len(ticket.prompt)
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


async def _incoming(ticket: Ticket) -> "AsyncIterator[tuple[int, StreamEvent]]":
    """Every event of a request, until all of its samples have ended."""
    unfinished = len(ticket.rows)
    while unfinished:
        item = await ticket.events.get()
        if isinstance(item, Exception):
            raise item
        unfinished -= item[1].finish_reason is not None
        yield item


async def _disconnected(connection: Request) -> None:
    while (await connection.receive())["type"] != "http.disconnect":
        pass


def _sse(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
