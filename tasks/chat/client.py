"""The terminal client: `python -m tasks.chat.client [--model DIR | --url URL] [--prompt TEXT]`.

Without --url the model is loaded here, no server needed. Commands while chatting: /help.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tasks._errors import StageError
from tasks._runtime import load_runtime

ROOT = Path(__file__).resolve().parents[2]
HELP = """\
/reset            forget the conversation          /system TEXT    set the system prompt and start again
/temperature X    0 is always the likeliest token  /max N          tokens per reply
/seed N           repeat a reply exactly           /save FILE      write the conversation as JSON
/help             this text                        /quit           leave (also Ctrl-D)
Ctrl-C stops a reply. A line that begins with // is sent without its first slash."""

Part = dict[str, str]


@dataclass
class Session:
    """The conversation and how replies are generated."""

    temperature: float = 0.7
    max_tokens: int = 256
    seed: int | None = None
    system: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)

    def prompt(self) -> list[dict[str, Any]]:
        return ([{"role": "system", "content": self.system}] if self.system else []) + self.messages


class Speaker(Protocol):
    """Something that replies."""

    def reply(self, session: Session) -> Iterator[Part]:
        """Parts of the reply as they come; StageError with a message for the user."""
        ...


class LocalSpeaker:
    """The engine in this process."""

    def __init__(self, folder: Path, dtype: str, device: str) -> None:
        import torch

        from model.engine.engine import Engine

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.engine = Engine.from_folder(folder, dtype, device)
        except ValueError as problem:
            raise StageError(f"{problem}") from None

    def reply(self, session: Session) -> Iterator[Part]:
        import secrets

        from model.chat_format import render_prompt
        from model.engine.sampling import Sampling

        try:
            prompt = render_prompt(self.engine.tokenizer, session.prompt())
            seed = secrets.randbits(32) if session.seed is None else session.seed
            sampling = Sampling(session.temperature, top_k=50, seed=seed, max_tokens=session.max_tokens)
            events = self.engine.stream(prompt, sampling)
        except ValueError as problem:
            raise StageError(f"{problem}") from None
        for event in events:
            if event.text:
                yield {"type": "text", "text": event.text}
            if event.tool_call:
                yield {"type": "python", "text": event.tool_call[0]}
                if event.tool_call[1] is not None:
                    yield {"type": "output", "text": event.tool_call[1]}


class RemoteSpeaker:
    """A server that speaks the OpenAI API."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def reply(self, session: Session) -> Iterator[Part]:
        import httpx

        body: dict[str, Any] = {
            "messages": session.prompt(),
            "temperature": session.temperature,
            "max_tokens": session.max_tokens,
            "stream": True,
        }
        if session.seed is not None:
            body["seed"] = session.seed
        try:
            with httpx.stream(
                "POST", f"{self.url}/v1/chat/completions", json=body, headers=self.headers, timeout=120
            ) as answer:
                if answer.status_code != 200:
                    raise StageError(f"the server answered {answer.status_code}: {answer.read().decode()[:500]}")
                yield from _parts_of(answer.iter_lines())
        except httpx.HTTPError as problem:
            raise StageError(f"no reply from {self.url} ({problem}); next: `make serve`, or correct --url") from None


def _parts_of(lines: Iterator[str]) -> Iterator[Part]:
    for line in lines:
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        event = json.loads(line[6:])
        if "error" in event:
            raise StageError(event["error"]["message"])
        for choice in event.get("choices", []):
            if choice["delta"].get("content"):
                yield {"type": "text", "text": choice["delta"]["content"]}
            yield from choice["delta"].get("parts", [])


def speak(speaker: Speaker, session: Session, text: str) -> bool:
    """Send one message, print the reply as it comes. False without a reply; then the message is withdrawn."""
    session.messages.append({"role": "user", "content": text})
    parts: list[Part] = []
    try:
        for part in speaker.reply(session):
            shown = {"text": part["text"], "python": f"[{part['text']}", "output": f" = {part['text']}]"}[part["type"]]
            if parts and parts[-1]["type"] == "python" and part["type"] != "output":
                print("]", end="")
            print(_printable(shown), end="", flush=True)
            if part["type"] == "text" and parts and parts[-1]["type"] == "text":
                parts[-1]["text"] += part["text"]
            else:
                parts.append(dict(part))
    except KeyboardInterrupt:
        print("\n(stopped)", end="")
    except StageError as problem:
        print(f"error: {problem}", file=sys.stderr)
        parts = []
    print()
    if not parts:
        session.messages.pop()
        return False
    content = "".join(part["text"] for part in parts if part["type"] == "text")
    session.messages.append({"role": "assistant", "content": content, "parts": parts})
    return True


def _printable(text: str) -> str:
    """Without control characters: a model must not be able to send commands to the terminal."""
    return "".join(c for c in text if c in "\n\t" or (ord(c) >= 32 and not 127 <= ord(c) < 160))


def command(session: Session, line: str) -> bool:
    """Carry out a line that begins with a slash; False ends the program."""
    name, _, value = line[1:].partition(" ")
    value = value.strip()
    try:
        if name in ("quit", "exit", "q"):
            return False
        if name == "reset":
            session.messages.clear()
            print("(new conversation)")
        elif name == "system":
            session.system = value
            session.messages.clear()
            print("(system prompt set, new conversation)" if value else "(no system prompt, new conversation)")
        elif name == "temperature":
            session.temperature = _number(float(value), 0, 2)
        elif name == "max":
            session.max_tokens = int(_number(int(value), 1, 10**6))
        elif name == "seed":
            session.seed = int(_number(int(value), 0, 2**63)) if value else None
        elif name == "save":
            Path(value).write_text(json.dumps(session.prompt(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(f"(written to {value})")
        else:
            print(HELP if name == "help" else f"/{name} is unknown\n{HELP}")
    except (ValueError, OSError) as problem:
        print(f"/{name}: {problem}", file=sys.stderr)
    return True


def _number(value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise ValueError(f"{value:g} is out of range; allowed: {low:g} to {high:g}")
    return value


def chat(speaker: Speaker, session: Session) -> int:
    """Read lines until the end of input or /quit."""
    if sys.stdin.isatty():
        print("Type a message, /help for commands, /quit to leave.")
    while True:
        try:
            line = input("you> ").strip()
        except EOFError:
            return 0
        except KeyboardInterrupt:
            print("\n(/quit leaves)")
            continue
        if line.startswith("/") and not line.startswith("//"):
            if not command(session, line):
                return 0
        elif line:
            print("chat> ", end="", flush=True)
            speak(speaker, session, line[1:] if line.startswith("//") else line)


def main(arguments: list[str] | None = None) -> int:
    runtime = load_runtime(ROOT / "runtime.yaml")
    parser = argparse.ArgumentParser(prog="python -m tasks.chat.client", description="Chat in the terminal.")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--model", type=Path, default=ROOT / "artifacts" / "export", help="exported folder (default: artifacts/export)"
    )
    where.add_argument("--url", help="server to talk to instead; its key is read from ZERO2CHAT_API_KEY")
    parser.add_argument("--prompt", help="ask this one question, print the reply and leave")
    parser.add_argument("--system", default="", help="system prompt")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    options = parser.parse_args(arguments)
    session = Session(options.temperature, options.max_tokens, options.seed, options.system)
    try:
        speaker: Speaker
        if options.url:
            speaker = RemoteSpeaker(options.url, os.environ.get("ZERO2CHAT_API_KEY"))
        else:
            speaker = LocalSpeaker(options.model, options.dtype, runtime.device)
    except StageError as problem:
        print(f"chat: {problem}", file=sys.stderr)
        return 1
    if options.prompt is not None:
        return 0 if speak(speaker, session, options.prompt) else 1
    return chat(speaker, session)


if __name__ == "__main__":
    sys.exit(main())
