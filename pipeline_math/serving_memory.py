"""Step 9, memory of a server: weights, keys and values, and how many sequences fit."""

from dataclasses import asdict, dataclass

from pipeline_math.checks import checked, positive
from pipeline_math.inference_prefill_decode import kv_bytes_per_token, kv_cache_bytes, max_concurrent_sequences
from pipeline_math.memory_constants import DEVICE_CONTEXT_BYTES, USABLE_MEMORY_SHARE
from pipeline_math.model_flops_vram import ModelShape, total_parameters


@dataclass(frozen=True)
class ServingMemory:
    """Bytes on one device of a server. Left out: activations, which one token per sequence keeps small."""

    weights_bytes: float
    kv_bytes: float
    context_bytes: float

    @property
    def total_bytes(self) -> float:
        """Their sum."""
        return sum(asdict(self).values())


@checked
def serving_memory(
    shape: ModelShape,
    sequences: int,
    tokens_each: int,
    bytes_per_element: int = 2,
    context_bytes: float = DEVICE_CONTEXT_BYTES,
) -> ServingMemory:
    """Weights and cache in one format, P b + 2 L Hkv q b tokens sequences."""
    per_token = kv_bytes_per_token(shape.n_layers, shape.n_kv_heads, shape.head_dim, bytes_per_element)
    weights = float(total_parameters(shape) * bytes_per_element)
    return ServingMemory(weights, float(kv_cache_bytes(per_token, tokens_each, sequences)), context_bytes)


@checked
def largest_sequences(
    memory_bytes: float,
    shape: ModelShape,
    tokens_each: int,
    bytes_per_element: int = 2,
    context_bytes: float = DEVICE_CONTEXT_BYTES,
) -> int:
    """Most sequences of `tokens_each` tokens beside the weights in 0.92 of the memory; 0 if not even one fits."""
    positive(tokens_each=tokens_each, bytes_per_element=bytes_per_element)
    empty = serving_memory(shape, 0, tokens_each, bytes_per_element, context_bytes)
    per_token = kv_bytes_per_token(shape.n_layers, shape.n_kv_heads, shape.head_dim, bytes_per_element)
    return max_concurrent_sequences(memory_bytes, empty.total_bytes, per_token, tokens_each, USABLE_MEMORY_SHARE)
