"""The inference engine: prompts in, replies out.

Covered: batches of unequal prompts, several samples from one prefill, greedy and random sampling, stop strings, the
calculator, streaming, a clear error when a prompt leaves no room for a reply.
Not covered: prefix caching between requests, several devices, speculative decoding.
Reproducibility: what a request draws depends on its seed alone. In fp32 its tokens do not depend on its neighbours in
the batch either, short of exact ties; in bf16 the matrix kernels of different batch sizes round differently, so
near-ties can fall the other way.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.engine.batch import RunningBatch
from model.engine.forward import ForwardPass
from model.engine.row import Completion, Row, StreamEvent, Vocabulary
from model.engine.sampling import Sampling
from model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from model.gpt import GPT, GPTConfig

DTYPES = ("auto", "float32", "bfloat16")


class Engine:
    """One model, ready to generate. Not thread-safe: one thread at a time."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        config: "GPTConfig",
        tokenizer: Tokenizer,
        dtype: str = "auto",
        device: str = "cpu",
        max_rows: int = 64,
    ) -> None:
        """`max_rows`: sequences decoded side by side; more prompts wait their turn."""
        if config.vocab_size < tokenizer.vocab_size:
            raise ValueError(
                f"the model knows {config.vocab_size} tokens and the tokenizer {tokenizer.vocab_size}; they do not "
                f"belong together; next: use the tokenizer the model was trained with"
            )
        if max_rows < 1:
            raise ValueError(f"max_rows={max_rows}; allowed: 1 or more")
        self.config, self.tokenizer, self.max_rows = config, tokenizer, max_rows
        self.forward = ForwardPass(weights, config, resolve_dtype(dtype, device), device)
        self.vocabulary = Vocabulary(tokenizer)

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        dtype: str = "auto",
        device: str = "cpu",
        tokenizer_file: Path | None = None,
        max_rows: int = 64,
    ) -> "Engine":
        """The model in an exported folder, or in a checkpoint folder together with `tokenizer_file`."""
        from model.engine.folder import read_folder

        weights, config, tokenizer = read_folder(Path(folder), tokenizer_file)
        return cls(weights, config, tokenizer, dtype, device, max_rows)

    @classmethod
    def from_model(cls, model: "GPT", tokenizer: Tokenizer, dtype: str = "auto", max_rows: int = 64) -> "Engine":
        """A model that is being trained, as it is now: the weights are copied, on the device they are on."""
        weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        device = str(next(iter(weights.values())).device)
        return cls(weights, model.config, tokenizer, dtype, device, max_rows)

    @property
    def context(self) -> int:
        """Tokens that prompt and reply may have together."""
        return self.config.sequence_length

    def new_batch(self) -> RunningBatch:
        return RunningBatch(self.forward, self.vocabulary)

    def new_rows(self, prompt_ids: Sequence[int], sampling: Sampling, n: int = 1) -> list[Row]:
        """The rows that continue a prompt n times; ValueError when the prompt is empty, invalid or does not fit."""
        if n < 1:
            raise ValueError(f"n={n}; allowed: 1 or more samples")
        if not prompt_ids:
            raise ValueError("the prompt is empty; next: begin it with <|bos|>")
        room = self.context - len(prompt_ids)
        if room < 1:
            raise ValueError(
                f"the prompt has {len(prompt_ids)} tokens, the model's context is {self.context} and a reply needs at "
                f"least 1; next: shorten the conversation"
            )
        wrong = [token for token in prompt_ids if not 0 <= token < self.config.vocab_size]
        if wrong:
            raise ValueError(f"the prompt holds token id {wrong[0]}; allowed: 0..{self.config.vocab_size - 1}")
        return [Row(self.vocabulary, sampling, sample, room) for sample in range(n)]

    def generate(self, prompt_ids: list[int], sampling: Sampling | None = None, n: int = 1) -> list[Completion]:
        """n replies to one prompt; the prompt runs through the model once."""
        return self.generate_batch([prompt_ids], sampling, n)[0]

    def generate_batch(
        self, prompts: Sequence[list[int]], sampling: Sampling | Sequence[Sampling] | None = None, n: int = 1
    ) -> list[list[Completion]]:
        """n replies to every prompt, in the order of the prompts. `sampling` is one for all or one per prompt."""
        per_prompt = [sampling or Sampling()] * len(prompts) if not isinstance(sampling, Sequence) else list(sampling)
        if len(per_prompt) != len(prompts):
            raise ValueError(
                f"{len(prompts)} prompts and {len(per_prompt)} samplings; allowed: one for all or one each"
            )
        samples = [self.new_rows(prompt, one, n) for prompt, one in zip(prompts, per_prompt, strict=True)]
        # Prompts of similar length are prefilled together: less padding. Results do not depend on the order.
        order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
        batch, at = self.new_batch(), 0
        while at < len(order) or len(batch):
            free = max(self.max_rows - len(batch), 0) // n or (0 if len(batch) else 1)
            if at < len(order) and free and (free * n * 2 >= self.max_rows or not len(batch)):
                joining = order[at : at + free]
                batch.add([prompts[i] for i in joining], [samples[i] for i in joining])
                at += len(joining)
            batch.step()
        return [[row.completion() for row in rows] for rows in samples]

    def stream(self, prompt_ids: list[int], sampling: Sampling | None = None) -> Iterator[StreamEvent]:
        """The tokens of one reply as they are generated; the last event carries the finish reason."""
        rows = self.new_rows(prompt_ids, sampling or Sampling())
        return self._stream(prompt_ids, rows)

    def _stream(self, prompt_ids: list[int], rows: list[Row]) -> Iterator[StreamEvent]:
        batch = self.new_batch()
        events = batch.add([prompt_ids], [rows])
        while events:
            for _, event in events:
                yield event
            events = batch.step()


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """The compute dtype; "auto" is bf16 where the device is good at it, else fp32. ValueError for fp16 and others."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}; allowed: {', '.join(DTYPES)} (fp16 is 100 times slower on a CPU)")
    if dtype == "auto":
        from model.precision import compute_dtype

        return compute_dtype(torch.device(device))
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32
