"""How fast the engine answers: time to the first token and time per decode step of synthetic prompts."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.engine.engine import Engine


def time_replies(engine: "Engine", sequences: int, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
    """(seconds to the first token of all prompts, mean seconds of the decode steps after it); no row ends early.

    `prompt_tokens` + `new_tokens` must fit the engine's context, and `new_tokens` be at least 2.
    """
    from model.engine.sampling import Sampling

    ordinary = engine.tokenizer.encode("abcdefgh")[0]
    prompt = [engine.tokenizer.bos_id] + [ordinary] * (prompt_tokens - 1)
    samples = [engine.new_rows(prompt, Sampling(max_tokens=new_tokens)) for _ in range(sequences)]
    for (row,) in samples:
        row.vocabulary = _EndlessVocabulary(row.vocabulary)  # type: ignore[assignment]
    running = engine.new_batch()
    synchronise = _synchroniser(engine)
    synchronise()
    started = time.perf_counter()
    running.add([prompt] * sequences, samples)
    synchronise()
    first = time.perf_counter()
    steps = 0
    while len(running):
        running.step()
        steps += 1
    synchronise()
    return first - started, (time.perf_counter() - first) / steps


class _EndlessVocabulary:
    """The same vocabulary without special meanings: every sequence decodes exactly as many tokens as asked for."""

    def __init__(self, real: Any) -> None:
        self.tokenizer, self.size = real.tokenizer, real.size
        self.specials: dict[int, str] = {}
        self.ends: set[int] = set()


def _synchroniser(engine: "Engine") -> Callable[[], None]:
    import torch

    return torch.cuda.synchronize if engine.forward.device.type == "cuda" else lambda: None
