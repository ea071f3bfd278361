"""Published numbers that the worked examples start from, each with where it was published.

A number that a function of the package can compute does not belong here; what somebody else measured does.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A published value in a unit without prefix."""

    value: float
    unit: str
    citation: str


_NANOCHAT = "karpathy/nanochat"

D24_TRAIN_FLOPS = Published(4.33e19, "FLOP", f"{_NANOCHAT}, leaderboard run of a d24 on 8 x H100")
D24_TRAIN_TOKENS = Published(8.76e9, "tokens", f"{_NANOCHAT}, leaderboard run of a d24 on 8 x H100")
D24_DEVICES = Published(8, "", f"{_NANOCHAT}, leaderboard run of a d24 on 8 x H100")
D24_MFU = Published(0.50, "share", f"{_NANOCHAT}, leaderboard run of a d24 on 8 x H100")
D24_SECONDS = Published(10949, "s", f"{_NANOCHAT}, leaderboard run of a d24 on 8 x H100")
D12_STEP_SECONDS = Published(0.96, "s", f"{_NANOCHAT}, d12 on one H100")
D12_BATCH_TOKENS = Published(524288, "tokens", f"{_NANOCHAT}, d12 on one H100")
GPT2_NATS_PER_TOKEN = Published(3.28, "nats/token", "llm.c and modded-nanogpt, FineWeb validation loss of GPT-2 124M")
GPT2_BYTES_PER_TOKEN = Published(4.67, "B/token", f"{_NANOCHAT}, tokenizer report, GPT-2 on FineWeb-Edu")
OWN_65K_BYTES_PER_TOKEN = Published(4.91, "B/token", f"{_NANOCHAT}, tokenizer report, its own 65,536 on FineWeb-Edu")
D12_TRAIN_TOKENS = Published(1.32e9, "tokens", f"{_NANOCHAT}, d12")
BYTES_PER_TOKEN_32K = Published(4.8, "B/token", f"{_NANOCHAT}, 32,768 ids on FineWeb-Edu, rounded")
CROP_DROPPED_SHARE = Published(0.35, "share", f"{_NANOCHAT}, best-fit-crop loader, rows of 2,048 tokens")
LOADER_TOKENS_PER_CORE_SECOND = Published(
    1.11e6, "tokens/s", f"{_NANOCHAT}, its loader per CPU second, timed on one core of a 2-core Zen 5"
)


@dataclass(frozen=True)
class MemoryCase:
    """A published report of what fits a device, or runs out of its memory; rows of 2,048 tokens, torch.compile."""

    name: str
    depth: int
    vocab_size: int
    value_embeddings: bool
    rows: int
    optimizer_shards: int
    device_bytes: float
    fits: bool
    citation: str


_GIB = 1024**3
MEMORY_CASES = (
    MemoryCase("d26, 32 rows", 26, 32768, True, 32, 8, 79.2 * _GIB, False, f"{_NANOCHAT}, leaderboard"),
    MemoryCase("d26, 16 rows", 26, 32768, True, 16, 8, 79.2 * _GIB, True, f"{_NANOCHAT}, leaderboard"),
    MemoryCase("d32 of 2025, 16 rows", 32, 65536, False, 16, 8, 79.2 * _GIB, False, f"{_NANOCHAT}, public reports"),
    MemoryCase("d32 of 2025, 8 rows", 32, 65536, False, 8, 8, 79.2 * _GIB, True, f"{_NANOCHAT}, public reports"),
    MemoryCase("d20 of 2025, 4 rows", 20, 65536, False, 4, 1, 24.0 * _GIB, True, f"{_NANOCHAT}, issue 157"),
)
"""Five public reports; "of 2025" is the layout without value embeddings."""


@dataclass(frozen=True)
class LossCase:
    """A published loss of the best model of a compute budget, web text, V = 32,768."""

    train_flops: float
    bits_per_byte: float
    fitted: bool
    """Used to fit the law, or kept to check it."""


LOSS_CASES = (
    LossCase(1.0e18, 0.8972, True),
    LossCase(2.15e18, 0.8616, False),
    LossCase(4.64e18, 0.8293, False),
    LossCase(1.0e19, 0.7999, True),
    LossCase(4.33e19, 0.7483, False),
)
"""karpathy/nanochat: log of 2026-01-27 (the first four), leaderboard run of a d24 (the last)."""
D12_RUN_SECONDS = Published(35.1 * 60, "s", f"{_NANOCHAT}, d12 on one H100, whole training")
CHINCHILLA_FLOPS = Published(5.76e23, "FLOP", "Hoffmann 2022, arXiv:2203.15556: compute of Gopher and Chinchilla")
CHINCHILLA_PARAMETERS = Published(70e9, "parameters", "Hoffmann 2022, arXiv:2203.15556")
CHINCHILLA_TOKENS = Published(1.4e12, "tokens", "Hoffmann 2022, arXiv:2203.15556")
