"""Conversations as token ids: the one place that knows where turns, tool calls and supervision begin and end.

    <|bos|> <|user_start|> text <|user_end|> <|assistant_start|> text
            <|python_start|> 12*34 <|python_end|> <|output_start|> 408 <|output_end|> text <|assistant_end|> ...

System rule: a leading system message has no token of its own; it is put in front of the first user message, separated
by a blank line. `CHAT_TEMPLATE` states the same rule for transformers and vLLM.
Covered: text that spells a special token is encoded as ordinary text here. Not covered: transformers parses such text
as the special token, so `render` and `apply_chat_template` differ on it; serve with our own engine, or filter it first.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.tokenizer import Tokenizer

Message = dict[str, Any]
"""{"role": "system"|"user"|"assistant", "content": str}; an assistant may have "parts" instead of "content":
a list of {"type": "text"|"python"|"output", "text": str}."""

SYSTEM_SEPARATOR = "\n\n"

CHAT_TEMPLATE = """\
{%- if messages and messages[0]['role'] == 'system' -%}
{%- set system = messages[0]['content'] + '\\n\\n' -%}
{%- set turns = messages[1:] -%}
{%- else -%}
{%- set system = '' -%}
{%- set turns = messages -%}
{%- endif -%}
{{- '<|bos|>' -}}
{%- for message in turns -%}
{%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
{{- raise_exception('roles must alternate user, assistant, user, ... after an optional leading system message') -}}
{%- endif -%}
{%- if message['role'] == 'user' -%}
{{- '<|user_start|>' + (system if loop.first else '') + message['content'] + '<|user_end|>' -}}
{%- else -%}
{{- '<|assistant_start|>' -}}
{%- if message['parts'] is defined and message['parts'] -%}
{%- for part in message['parts'] -%}
{%- if part['type'] == 'text' -%}
{{- part['text'] -}}
{%- else -%}
{{- '<|' + part['type'] + '_start|>' + part['text'] + '<|' + part['type'] + '_end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- else -%}
{{- message['content'] -}}
{%- endif -%}
{{- '<|assistant_end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant_start|>' -}}{%- endif -%}"""

_ROLES = ("system", "user", "assistant")
_PART_TYPES = ("text", "python", "output")


def render(tokenizer: "Tokenizer", messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """Token ids of a conversation and, for each of them, 1 if the assistant must produce it, else 0.

    Supervised: the assistant's text, its tool calls with <|python_start|> and <|python_end|>, and <|assistant_end|>.
    Not supervised: everything of system and user, <|assistant_start|>, and tool output with its delimiters (the
    engine forces those). Raises ValueError for malformed conversations.
    """
    validate_messages(messages)
    ids, mask = [tokenizer.bos_id], [0]

    def add(new_ids: list[int], supervised: int) -> None:
        ids.extend(new_ids)
        mask.extend([supervised] * len(new_ids))

    for message in _without_system(messages):
        if message["role"] == "user":
            add([tokenizer.special_id("<|user_start|>")], 0)
            add(tokenizer.encode(message["content"]), 0)
            add([tokenizer.special_id("<|user_end|>")], 0)
            continue
        add([tokenizer.special_id("<|assistant_start|>")], 0)
        for part in message_parts(message):
            supervised = 0 if part["type"] == "output" else 1
            if part["type"] == "text":
                add(tokenizer.encode(part["text"]), supervised)
            else:
                add([tokenizer.special_id(f"<|{part['type']}_start|>")], supervised)
                add(tokenizer.encode(part["text"]), supervised)
                add([tokenizer.special_id(f"<|{part['type']}_end|>")], supervised)
        add([tokenizer.special_id("<|assistant_end|>")], 1)
    return ids, mask


def render_prompt(tokenizer: "Tokenizer", messages: Sequence[Message]) -> list[int]:
    """Token ids after which the assistant speaks: the conversation so far, ending with <|assistant_start|>."""
    validate_messages(messages)
    if messages[-1]["role"] != "user":
        raise ValueError(
            f"messages[{len(messages) - 1}]: a prompt must end with a user message, found role "
            f"{messages[-1]['role']!r}; next: append the user's message or drop the last reply"
        )
    return [*render(tokenizer, messages)[0], tokenizer.special_id("<|assistant_start|>")]


def message_parts(message: Message) -> list[dict[str, str]]:
    """The parts of an assistant message; plain content counts as one text part."""
    return message["parts"] if "parts" in message else [{"type": "text", "text": message["content"]}]


def visible_text(message: Message) -> str:
    """What a reader sees of a message: its text without tool calls and their outputs."""
    if message["role"] != "assistant":
        return message["content"]
    return "".join(part["text"] for part in message_parts(message) if part["type"] == "text")


def validate_messages(messages: Sequence[Message]) -> None:
    """ValueError that names the message and says what is allowed, unless `messages` can be rendered."""
    if not messages:
        raise ValueError("messages is empty; allowed: an optional system message, then user and assistant in turn")
    for index, message in enumerate(messages):
        _validate_message(index, message)
    turns = list(messages[1:]) if messages[0]["role"] == "system" else list(messages)
    offset = len(messages) - len(turns)
    if not turns:
        raise ValueError("messages holds a system message only; next: add a user message after it")
    for index, message in enumerate(turns):
        expected = "user" if index % 2 == 0 else "assistant"
        if message["role"] != expected:
            raise ValueError(
                f"messages[{index + offset}]: role is {message['role']!r}, expected {expected!r}; allowed: an optional "
                f"leading system message, then user, assistant, user, ..."
            )


def _validate_message(index: int, message: Message) -> None:
    where = f"messages[{index}]"
    if not isinstance(message, dict):
        raise ValueError(f"{where} is a {type(message).__name__}; allowed: a mapping with role and content")
    role = message.get("role")
    if role not in _ROLES:
        raise ValueError(f"{where}: role is {role!r}; allowed: {', '.join(_ROLES)}")
    if "parts" in message:
        if role != "assistant":
            raise ValueError(f"{where}: only an assistant message may have 'parts', this one is of role {role!r}")
        _validate_parts(where, message["parts"])
        return
    content = message.get("content")
    if not isinstance(content, str):
        raise ValueError(f"{where}: content is a {type(content).__name__}; allowed: text")
    _check_unicode(where, content)
    if role == "user" and not content.strip():
        raise ValueError(f"{where}: the user's content is empty; allowed: text with at least one visible character")


def _validate_parts(where: str, parts: object) -> None:
    if not isinstance(parts, list) or not parts:
        raise ValueError(f"{where}: parts is {parts!r}; allowed: a list of at least one part")
    for index, part in enumerate(parts):
        if not isinstance(part, dict) or part.get("type") not in _PART_TYPES or not isinstance(part.get("text"), str):
            raise ValueError(
                f'{where}.parts[{index}] is {part!r}; allowed: {{"type": "{"|".join(_PART_TYPES)}", "text": text}}'
            )
        _check_unicode(f"{where}.parts[{index}]", part["text"])
        if part["type"] == "output" and (index == 0 or parts[index - 1]["type"] != "python"):
            raise ValueError(f"{where}.parts[{index}]: an output must follow the python part it answers")


def _check_unicode(where: str, text: str) -> None:
    """JSON can spell half a surrogate pair (\\ud800), which no encoding can write and no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: character {error.start} is the unpaired surrogate U+{ord(text[error.start]):04X}; allowed: text "
            f"that UTF-8 can hold; next: replace it by the character that was meant"
        ) from None


def _without_system(messages: Sequence[Message]) -> list[Message]:
    """The turns, with a leading system message merged into the first user message."""
    if messages[0]["role"] != "system":
        return list(messages)
    first = dict(messages[1])
    first["content"] = messages[0]["content"] + SYSTEM_SEPARATOR + first["content"]
    return [first, *messages[2:]]
