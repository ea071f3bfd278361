"""A small random model that transformers, model.gpt and the engine can all load."""

from functools import cache
from typing import Any

import torch

from model.engine.engine import Engine
from model.engine.hf_config import to_hf
from model.gpt import GPTConfig
from model.tokenizer import Tokenizer, byte_tokenizer_json


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_json(byte_tokenizer_json())


def config(**changes: Any) -> GPTConfig:
    """Grouped queries (4 heads share 2), so that a mistake in their order cannot hide."""
    shape: dict[str, Any] = {
        "vocab_size": tokenizer().vocab_size, "n_layers": 2, "d_model": 64, "n_heads": 4, "n_kv_heads": 2,
        "mlp_width": 128, "sequence_length": 96,
    }  # fmt: skip
    return GPTConfig(**{**shape, **changes})


@cache
def transformers_model(seed: int = 0) -> Any:
    """Random weights, large enough that greedy decoding has no near-ties."""
    from transformers import NanoChatConfig, NanoChatForCausalLM

    torch.manual_seed(seed)
    fields = to_hf(config(), tokenizer(), "float32")
    model = NanoChatForCausalLM(NanoChatConfig(**{k: v for k, v in fields.items() if k != "architectures"})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def engine(seed: int = 0, **options: Any) -> Engine:
    return Engine(transformers_model(seed).state_dict(), config(), tokenizer(), **{"dtype": "float32", **options})


def prompt(text: str) -> list[int]:
    return [tokenizer().bos_id, *tokenizer().encode(text)]


def scripted(script: list[int]) -> Engine:
    """An engine whose model says the given tokens, one after the other, whatever the prompt."""
    made = engine()
    made.forward = ScriptedForward(made, script)  # type: ignore[assignment]
    return made


class ScriptedForward:
    """Stands in for the forward pass: the logits after position p of any row prefer script[p - prompt length + 1]."""

    def __init__(self, made: Engine, script: list[int]) -> None:
        self.real, self.script, self.prompt_length = made.forward, script, 0
        self.device, self.dtype = self.real.device, self.real.dtype
        self.fed: list[list[int]] = []
        """Ids given to every decode call: shows that forced tokens really entered the model."""

    def new_cache(self) -> Any:
        return self.real.new_cache()

    def prefill(self, prompts: list[list[int]], cache: Any, first_row: int) -> torch.Tensor:
        self.prompt_length = len(prompts[0])
        return torch.stack([self._logits(0)] * len(prompts))

    def decode(self, ids: list[int], cache: Any) -> torch.Tensor:
        self.fed.append(list(ids))
        cache.lengths[:] = [length + 1 for length in cache.lengths]
        return torch.stack([self._logits(length - self.prompt_length) for length in cache.lengths])

    def _logits(self, place: int) -> torch.Tensor:
        logits = torch.zeros(tokenizer().vocab_size)
        logits[self.script[min(place, len(self.script) - 1)]] = 30.0
        return logits
