"""One sequence being generated: its tokens, its visible text, its tool calls, and why it ended."""

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from model.engine.calculator import evaluate
from model.engine.sampling import Sampler, Sampling
from model.engine.stop_strings import StopStrings
from model.tokenizer import SPECIAL_TOKENS, IncrementalDecoder, Tokenizer

FinishReason = Literal["stop", "length"]
ToolCall = tuple[str, str | None]
"""(expression, result); the result is None when the calculator refused, and then nothing was forced."""

END_TOKENS = ("<|assistant_end|>", "<|bos|>")
"""Each of these ends a reply; generation_config.json of an export names the same two."""


@dataclass(frozen=True)
class StreamEvent:
    """One generated token."""

    text: str
    """Visible text that became certain with this token; often empty."""
    token_id: int
    forced: bool
    """The tool put this token there, the model did not choose it."""
    finish_reason: FinishReason | None = None
    """Set on the last event."""
    tool_call: ToolCall | None = None
    """Set on the event that closed a call."""


@dataclass
class Completion:
    """One finished reply."""

    ids: list[int]
    """Generated tokens, including forced ones and the end token."""
    text: str
    """What a reader sees: no special tokens, no tool calls, nothing from a stop string on."""
    forced_mask: list[bool]
    logprobs: list[float]
    """Natural log of the probability the model gave each token, before temperature and truncation; 0.0 where forced."""
    finish_reason: FinishReason
    """"stop": an end token or a stop string; "length": max_tokens or the context was used up."""
    tool_calls: list[ToolCall] = field(default_factory=list)


class Vocabulary:
    """What the engine needs to know of the tokenizer, looked up once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.size = tokenizer.vocab_size
        self.specials = {tokenizer.special_id(name): name for name in SPECIAL_TOKENS}
        self.ends = {tokenizer.special_id(name) for name in END_TOKENS}
        self.output_start = tokenizer.special_id("<|output_start|>")
        self.output_end = tokenizer.special_id("<|output_end|>")


class Row:
    """The state machine of one sample of one request."""

    def __init__(self, vocabulary: Vocabulary, sampling: Sampling, sample: int, room: int) -> None:
        self.vocabulary = vocabulary
        self.sampler = Sampler(sampling, sample)
        self.limit = min(sampling.max_tokens, room)
        """Tokens this row may generate: what was asked for or what the context has left."""
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.forced_mask: list[bool] = []
        self.tool_calls: list[ToolCall] = []
        self.finish_reason: FinishReason | None = None
        self.forced: deque[int] = deque()
        """Tokens the tool wants next."""
        self._text: list[str] = []
        self._decoder = IncrementalDecoder(vocabulary.tokenizer)
        self._stops = StopStrings(sampling.stop)
        self._inside: Literal["text", "python", "output"] = "text"
        self._expression: list[int] = []

    def accept(self, token_id: int, logprob: float, forced: bool) -> StreamEvent:
        """Append one token and say what it changed."""
        self.ids.append(token_id)
        self.logprobs.append(0.0 if forced else logprob)
        self.forced_mask.append(forced)
        calls = len(self.tool_calls)
        name = self.vocabulary.specials.get(token_id)
        text = self._ordinary(token_id) if name is None else self._special(name)
        if token_id in self.vocabulary.ends:
            self.finish_reason = "stop"
        visible = self._stops.push(text)
        if self._stops.hit:
            self.finish_reason = "stop"
        elif self.finish_reason is None and len(self.ids) >= self.limit:
            self.finish_reason = "length"
        if self.finish_reason is not None and not self._stops.hit:
            visible += self._stops.push(self._decoder.flush()) + self._stops.flush()
        self._text.append(visible)
        call = self.tool_calls[-1] if len(self.tool_calls) > calls else None
        return StreamEvent(visible, token_id, forced, self.finish_reason, call)

    def completion(self) -> Completion:
        assert self.finish_reason is not None, "a row is asked for its completion only after its last event"
        text = "".join(self._text)
        return Completion(self.ids, text, self.forced_mask, self.logprobs, self.finish_reason, self.tool_calls)

    def _ordinary(self, token_id: int) -> str:
        if self._inside == "python":
            self._expression.append(token_id)
        return self._decoder.push(token_id) if self._inside == "text" else ""

    def _special(self, name: str) -> str:
        """Follow the tool protocol; returns what is left of a character that the special token cut short."""
        cut = self._decoder.flush()
        if name == "<|python_start|>":
            self._inside, self._expression = "python", []
        elif name == "<|python_end|>":
            if self._inside == "python":
                self._call()
            self._inside = "text"
        elif name == "<|output_start|>":
            self._inside = "output"
        elif name == "<|output_end|>":
            self._inside = "text"
        return cut

    def _call(self) -> None:
        tokenizer = self.vocabulary.tokenizer
        expression = tokenizer.decode(self._expression)
        result = evaluate(expression)
        self.tool_calls.append((expression, result))
        if result is not None:
            self.forced.extend([self.vocabulary.output_start, *tokenizer.encode(result), self.vocabulary.output_end])
