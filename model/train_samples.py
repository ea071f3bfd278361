"""What the model says while it is being trained: the same prompts every time, so that steps can be compared by eye.

The inference engine (model/engine) decodes from the training weights as they are: the model's mode, its gradients and
the global random numbers stay as they were, and so does the run. Texts depend on weights, prompts and seed alone.
Limits: not for weights that are spread over ranks (model/sharding.py).
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from model.engine.engine import Engine
from model.engine.sampling import Sampling
from model.row_files import StoredRows
from model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from model.gpt import GPT

TEMPERATURE, TOP_K = 0.7, 50
"""Greedy text of a young model is one word again and again, which tells little."""
_ROW_START_TOKENS = 256
"""Tokens of a conversation in which its first question must end to be a prompt."""
_SHOWN_CHARACTERS = 100


def sample_texts(
    model: "GPT",
    tokenizer: Tokenizer,
    prompts: Sequence[list[int]],
    max_tokens: int = 40,
    seed: int = 0,
    temperature: float = TEMPERATURE,
) -> list[str]:
    """One continuation of every prompt (token ids), without the prompt; `temperature` 0 takes the likeliest tokens.

    The weights are read in place; while it runs they are copied only where the compute dtype differs from theirs.
    ValueError for a prompt that is empty or fills the context.
    """
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    device = str(next(iter(weights.values())).device)
    engine = Engine(weights, model.config, tokenizer, device=device, max_rows=max(1, len(prompts)))
    sampling = Sampling(temperature, TOP_K if temperature else None, seed=seed, max_tokens=max_tokens)
    return [completions[0].text for completions in engine.generate_batch(prompts, sampling)]


def fixed_prompts(
    rows: Path, tokenizer: Tokenizer, split: str = "val", count: int = 3, tokens: int = 16
) -> list[list[int]]:
    """A lone BOS, then the beginnings of `count` rows spread over the split, the same ones at every call.

    Of a conversation its first question, of other text the first `tokens` tokens, at most one document.
    """
    source = StoredRows(rows, split)
    numbers = np.unique(np.linspace(0, source.rows - 1, count).astype(np.int64))
    assistant = tokenizer.special_id("<|assistant_start|>")
    prompts = [[tokenizer.bos_id]]
    for row in source.ids(numbers).tolist():
        length = min(tokens, len(row) - 1)
        if assistant in row[: min(_ROW_START_TOKENS, len(row) - 1)]:
            length = row.index(assistant) + 1
        ends = [place for place, token in enumerate(row) if place and token in (tokenizer.bos_id, source.pad_id)]
        prompts.append(row[: min([length, *ends])])
    return prompts


class TrainingSamples:
    """Samples at a step: one line each for people, and JSON lines {"step", "prompt", "text"} in a file."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompts: Sequence[list[int]],
        path: Path,
        note: Callable[[str], None],
        max_tokens: int = 40,
        seed: int = 0,
    ) -> None:
        """`path`: of the file, in a folder that survives a kill; rows of steps to come (a run that was taken up from
        an earlier state) are replaced."""
        self.tokenizer, self.prompts, self.path, self.note = tokenizer, list(prompts), path, note
        self.max_tokens, self.seed = max_tokens, seed

    def __call__(self, model: "GPT", step: int) -> None:
        """Sample, tell and store. Only the rank that reports calls it; `step` is the one that has just ended."""
        texts = sample_texts(model, self.tokenizer, self.prompts, self.max_tokens, self.seed)
        asked = [self.tokenizer.decode(prompt) for prompt in self.prompts]
        self._store(step, [{"step": step, "prompt": p, "text": t} for p, t in zip(asked, texts, strict=True)])
        for prompt, text in zip(asked, texts, strict=True):
            self.note(f"step {step} sample: {_one_line(prompt, keep_end=True)} ->{_one_line(' ' + text)}")

    def _store(self, step: int, rows: list[dict[str, object]]) -> None:
        former = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []
        kept = [line for line in former if line.endswith("\n") and json.loads(line)["step"] < step]
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        temporary.write_text("".join(kept + lines), encoding="utf-8")
        os.replace(temporary, self.path)


def _one_line(text: str, keep_end: bool = False) -> str:
    """Line breaks as a sign, and no more than fits a line; of a prompt the end counts."""
    flat = text.replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}")
    limit = _SHOWN_CHARACTERS // 2 if keep_end else _SHOWN_CHARACTERS
    if len(flat) <= limit:
        return flat
    return "..." + flat[3 - limit :] if keep_end else flat[: limit - 3] + "..."
