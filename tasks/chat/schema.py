"""Requests of the OpenAI API as we understand them.

A known field that asks for something we cannot do is refused (unless its value changes nothing), and so is a field
that is not OpenAI's: a request is never answered as if it had said less than it did.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

MAX_MESSAGES = 500
MAX_CHARACTERS = 200_000
MAX_SAMPLES = 16

NonEmptyText = Annotated[str, Field(min_length=1, max_length=200)]
Finite = Annotated[float, Field(allow_inf_nan=False)]

# Fields of OpenAI's API that have no effect here when they hold one of these values.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0, None),
    "frequency_penalty": (0, None),
    "logit_bias": ({}, None),
    "logprobs": (False, None),
    "top_logprobs": (0, None),
    "tools": ([], None),
    "tool_choice": ("none", "auto", None),
    "parallel_tool_calls": (True, False, None),
    "response_format": ({"type": "text"}, None),
    "modalities": (["text"], None),
    "echo": (False, None),
    "best_of": (1, None),
    "suffix": ("", None),
}
# Fields that are labels for the caller's own use.
_LABELS = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")


class RequestError(Exception):
    """A request that is answered with an error in OpenAI's format."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class Part(BaseModel):
    """A piece of an assistant message; "python" and "output" are our extension for calculator calls."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "python", "output"]
    text: str


class ChatMessage(BaseModel):
    """One message. `parts` (extension) carries an assistant's calculator calls back into the next request."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None
    parts: list[Part] | None = None
    name: str | None = None
    refusal: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None

    def plain(self) -> dict[str, Any]:
        """The message as model/chat_format.py knows it."""
        role = "system" if self.role == "developer" else self.role
        if self.parts and role == "assistant":
            return {"role": role, "parts": [part.model_dump() for part in self.parts]}
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        return {"role": role, "content": content or ""}


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool = False


class Generation(BaseModel):
    """What chat and plain completions have in common."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] | None = None
    """Extension; 0 and -1 mean all tokens, as vLLM has it."""
    n: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = 1
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: NonEmptyText | Annotated[list[NonEmptyText], Field(max_length=8)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def drop_what_changes_nothing(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        kept = {name: value for name, value in values.items() if name not in _LABELS}
        for name, neutral in _NEUTRAL.items():
            if name in kept and name not in cls.model_fields:
                value = kept.pop(name)
                if value not in neutral:
                    allowed = " or ".join(repr(n) for n in neutral if n is not None)
                    raise ValueError(
                        f"{name}={value!r} is not supported by this server; allowed: {allowed}, or leave it out"
                    )
        return kept

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatRequest(Generation):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    @field_validator("messages")
    @classmethod
    def bounded(cls, messages: list[ChatMessage]) -> list[ChatMessage]:
        size = sum(len(str(message.plain())) for message in messages)
        if size > MAX_CHARACTERS:
            raise ValueError(f"the messages have {size} characters together; allowed: {MAX_CHARACTERS}")
        return messages


class CompletionRequest(Generation):
    """POST /v1/completions: text (a <|bos|> is put in front) or token ids (used as they are); one prompt a request."""

    prompt: (
        Annotated[str, Field(max_length=MAX_CHARACTERS)] | Annotated[list[int], Field(min_length=1, max_length=10**6)]
    )


def parse(schema: type[Generation], body: Any) -> Any:
    """The validated request; RequestError 400 with one sentence per problem."""
    if not isinstance(body, dict):
        raise RequestError(400, f"the body is a {type(body).__name__}; allowed: a JSON object")
    try:
        return schema.model_validate(body)
    except ValidationError as error:
        problems, first = [], None
        for problem in error.errors()[:5]:
            where = ".".join(str(step) for step in problem["loc"] if not _is_branch(step))
            first = first or where or None
            if problem["type"] == "extra_forbidden":
                problems.append(f"field '{where}' is unknown; allowed: {', '.join(sorted(schema.model_fields))}")
            else:
                problems.append(f"{where + ': ' if where else ''}{problem['msg'].removeprefix('Value error, ')}")
        raise RequestError(400, "; ".join(dict.fromkeys(problems)), first) from None


def _is_branch(step: Any) -> bool:
    """pydantic names the branch of a union in the location, such as 'constrained-str' or 'list[...]'."""
    return isinstance(step, str) and (step in ("str", "int") or any(mark in step for mark in "[(-"))
