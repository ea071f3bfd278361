"""chat: the export answers over HTTP, as a user would meet it.

Reads    artifacts/export
Writes   artifacts/chat/conversation.json, conversation.md
Promise  the server is started as a user starts it and is gone afterwards; every reply ended with a reason, no special
         token was visible, and the streamed reply equals the same reply asked for whole
Limits   one conversation, greedy; says that serving works, not that the replies are good (evaluation does that)
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
from pydantic import Field

from tasks._context import StageContext
from tasks._errors import StageError
from tasks._files import write_json, write_text
from tasks._params import StageParams
from tasks._process import die_with_parent

START_SECONDS = 120.0
REPLY_SECONDS = 120.0
_ANNOUNCEMENT = "listening on "


class Params(StageParams):
    """The conversation to hold."""

    questions: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = (
        "Hello! What can you do?",
        "What is 12 + 30?",
        "What does argparse.ArgumentParser do?",
    )
    """The user's turns, in order; the last reply is streamed."""
    max_tokens: Annotated[int, Field(ge=1)] = 96
    """Tokens per reply at most."""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Compute format of the server; float32 makes the conversation the same on every machine, short of ties."""


def run(ctx: StageContext) -> None:
    """Start, converse, check, stop, write down."""
    params = ctx.params
    assert isinstance(params, Params)
    folder = ctx.input("artifacts/export")
    with Server(folder, params.dtype, ctx.runtime.device) as server:
        conversation, replies = converse(server.url, params, ctx.check_stop)
    check(replies)
    ended = sum(reply["finish_reason"] == "stop" for reply in replies)
    calls = sum(part["type"] == "python" for reply in replies for part in reply["parts"])
    write_json(ctx.out / "conversation.json", {"messages": conversation, "replies": [_lasting(r) for r in replies]})
    write_text(ctx.out / "conversation.md", render(conversation))
    ctx.count(
        **_shape(folder),
        decode_steps=sum(reply["usage"]["completion_tokens"] for reply in replies),
        rows_per_decode_step=1,
    )
    first_token = [reply["timings"]["time_to_first_token_ms"] for reply in replies]
    ctx.report(
        replies=len(replies),
        replies_that_ended_by_themselves=ended,
        calculator_calls=calls,
        start_seconds=server.start_seconds,
        time_to_first_token_ms=max(first_token),
    )
    ctx.note(f"{len(replies)} replies over HTTP, {ended} ended by themselves, {calls} used the calculator")


def _shape(folder: Path) -> dict[str, int]:
    """The exported model's shape, read without importing torch."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {
        "n_layers": config["num_hidden_layers"],
        "d_model": config["hidden_size"],
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"],
        "mlp_width": config["intermediate_size"],
        "vocab_size": config["vocab_size"],
        "tokens_per_row": config["max_position_embeddings"],
    }


class Server:
    """`python -m tasks.chat.server` on a free loopback port; stopped when the block ends, whatever happens in it."""

    def __init__(self, folder: Path, dtype: str, device: str) -> None:
        self.arguments = [
            "--model",
            str(folder),
            "--port",
            "0",
            "--host",
            "127.0.0.1",
            "--dtype",
            dtype,
            "--device",
            device,
        ]
        self.url, self.start_seconds = "", 0.0

    def __enter__(self) -> "Server":
        started = time.monotonic()
        self.log = tempfile.TemporaryFile("w+")  # closed in __exit__
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tasks.chat.server", *self.arguments],
            cwd=Path(__file__).resolve().parents[2],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
        )
        try:
            while not self.url:
                self._find_url(time.monotonic() - started)
            httpx.get(f"{self.url}/health", timeout=START_SECONDS, trust_env=False).raise_for_status()
        except BaseException:
            self.__exit__()
            raise
        self.start_seconds = time.monotonic() - started
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def _find_url(self, waited: float) -> None:
        ended = self.process.poll() is not None
        self.log.seek(0)
        text = self.log.read()
        if _ANNOUNCEMENT in text and text.endswith("\n"):
            self.url = text.split(_ANNOUNCEMENT, 1)[1].split()[0]
        elif ended:
            raise StageError(f"the chat server ended with code {self.process.returncode}: {text.strip()[-2000:]}")
        elif waited > START_SECONDS:
            raise StageError(
                f"the chat server did not start within {START_SECONDS:.0f} s; its output: {text.strip()[-2000:]}"
            )
        else:
            time.sleep(0.05)


def converse(url: str, params: Params, between: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(messages, one reply record per question). The last question is asked twice: whole and streamed."""
    messages: list[dict[str, Any]] = []
    replies: list[dict[str, Any]] = []
    with httpx.Client(base_url=url, timeout=REPLY_SECONDS, trust_env=False) as client:
        for question in params.questions:
            between()
            messages.append({"role": "user", "content": question})
            replies.append(ask(client, messages, params))
            messages.append({"role": "assistant", "content": replies[-1]["content"], "parts": replies[-1]["parts"]})
        streamed = ask_streaming(client, messages[:-1], params)
    whole = replies[-1]
    if (streamed["content"], streamed["finish_reason"]) != (whole["content"], whole["finish_reason"]):
        raise StageError(
            f"the streamed reply {streamed['content']!r} is not the whole one {whole['content']!r}; this is a fault of "
            f"tasks/chat/backends.py"
        )
    replies[-1] = {**whole, "timings": streamed["timings"], "chunks": streamed["chunks"]}
    return messages, replies


def ask(client: httpx.Client, messages: list[dict[str, Any]], params: Params) -> dict[str, Any]:
    """One reply, asked for whole."""
    body = _body(messages, params)
    answer = client.post("/v1/chat/completions", json=body)
    if answer.status_code != 200:
        raise StageError(f"the server answered {answer.status_code}: {_problem(answer.text)}; {_hint(params)}")
    content = answer.json()
    choice = content["choices"][0]
    return {
        "content": choice["message"]["content"],
        "parts": choice["message"]["parts"],
        "finish_reason": choice["finish_reason"],
        "usage": content["usage"],
        "timings": content["timings"],
    }


def ask_streaming(client: httpx.Client, messages: list[dict[str, Any]], params: Params) -> dict[str, Any]:
    """The same by server-sent events; StageError unless the stream ends with a reason and [DONE]."""
    text, reason, chunks, done = "", None, 0, False
    timings: dict[str, float] = {}
    body = {**_body(messages, params), "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            raise StageError(
                f"the server answered {answer.status_code}: {_problem(answer.read().decode())}; {_hint(params)}"
            )
        for line in answer.iter_lines():
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                event = json.loads(line[6:])
                timings = event.get("timings", timings)
                for choice in event["choices"]:
                    chunks += 1
                    text += choice["delta"].get("content") or ""
                    reason = choice["finish_reason"] or reason
    if not done or reason is None:
        raise StageError(
            f"the stream ended early (finish_reason {reason}, [DONE] {'seen' if done else 'missing'}) after {text!r}"
        )
    return {"content": text, "finish_reason": reason, "timings": timings, "chunks": chunks}


def check(replies: list[dict[str, Any]]) -> None:
    """StageError when a reply has no end or shows a special token."""
    from model.tokenizer import SPECIAL_TOKENS

    for number, reply in enumerate(replies, start=1):
        if reply["finish_reason"] not in ("stop", "length"):
            raise StageError(
                f"reply {number} ended with finish_reason {reply['finish_reason']!r}; allowed: stop, length"
            )
        seen = [name for name in SPECIAL_TOKENS if name in reply["content"]]
        if seen:
            raise StageError(f"reply {number} shows the special token {seen[0]}: {reply['content']!r}")
        usage = reply["usage"]
        if (
            usage["total_tokens"] != usage["prompt_tokens"] + usage["completion_tokens"]
            or usage["completion_tokens"] < 1
        ):
            raise StageError(f"reply {number} reports impossible usage {usage}")


def render(conversation: list[dict[str, Any]]) -> str:
    """The conversation as Markdown."""
    lines = ["# A conversation with the served model", ""]
    for message in conversation:
        lines.append(f"**{message['role']}**")
        lines.append("")
        for part in message.get("parts") or [{"type": "text", "text": message["content"]}]:
            if part["type"] == "text":
                lines.append("\n".join(f"> {line}" for line in part["text"].splitlines()))
            else:
                lines.append(f"> `{'calculator' if part['type'] == 'python' else 'result'}: {part['text']}`")
        lines.append("")
    return "\n".join(lines)


def _body(messages: list[dict[str, Any]], params: Params) -> dict[str, Any]:
    return {"messages": messages, "max_tokens": params.max_tokens, "temperature": 0, "seed": 0}


def _lasting(reply: dict[str, Any]) -> dict[str, Any]:
    """The record without its times."""
    return {name: reply[name] for name in ("finish_reason", "usage")}


def _problem(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text[:500]


def _hint(params: Params) -> str:
    return f"next: fewer or shorter chat.questions, or chat.max_tokens below {params.max_tokens}"
