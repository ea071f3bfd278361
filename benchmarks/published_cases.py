"""Public measurements that calculators can be compared on. Standard library and pipeline_math only."""

from dataclasses import dataclass

from pipeline_math.layouts import mixed_static, value_embedding_parameters
from pipeline_math.model_flops_vram import ModelShape, shape_of_depth, total_parameters
from pipeline_math.static_memory import StaticBytes

TOKENS_PER_ROW = 2048
H100_GIB = 79.2
"""What the driver leaves of 80 GB."""


@dataclass(frozen=True)
class MemoryCase:
    """A training run of the karpathy/nanochat family whose memory, or whether it fits, is public."""

    name: str
    depth: int
    vocab_size: int
    rows: int
    devices: int
    """Devices the optimizer state is divided among."""
    value_embeddings: bool
    source: str
    measured_gib: float | None = None
    device_gib: float | None = None
    fits: bool | None = None

    @property
    def shape(self) -> ModelShape:
        """Its blocks, head and embedding."""
        return shape_of_depth(self.depth, self.vocab_size, TOKENS_PER_ROW)

    @property
    def extra_parameters(self) -> int:
        """Value embeddings, 0 in older versions."""
        return value_embedding_parameters(self.shape) if self.value_embeddings else 0

    @property
    def parameters(self) -> int:
        """All of them."""
        return total_parameters(self.shape) + self.extra_parameters

    @property
    def static(self) -> StaticBytes:
        """Weights, gradients, optimizer."""
        return mixed_static(self.shape, self.devices, self.extra_parameters)


MEMORY_CASES = (
    MemoryCase("d8, 128 rows", 8, 8192, 128, 1, True, "karpathy/autoresearch", measured_gib=44.0),
    MemoryCase("d12, 32 rows", 12, 32768, 32, 1, False, "karpathy/nanochat", measured_gib=34.0),
    MemoryCase("d26, 32 rows", 26, 32768, 32, 8, True, "nanochat LEADERBOARD", device_gib=H100_GIB, fits=False),
    MemoryCase("d26, 16 rows", 26, 32768, 16, 8, True, "nanochat LEADERBOARD", device_gib=H100_GIB, fits=True),
    MemoryCase("old d32, 16 rows", 32, 65536, 16, 8, False, "nanochat d32 run", device_gib=H100_GIB, fits=False),
    MemoryCase("old d32, 8 rows", 32, 65536, 8, 8, False, "nanochat d32 run", device_gib=H100_GIB, fits=True),
    MemoryCase("old d20, 4 rows", 20, 65536, 4, 1, False, "nanochat #157, #237", device_gib=24.0, fits=True),
)

GPT2 = ModelShape(12, 768, 12, 12, 3072, 50257, 1024)
GPT2_PARAMETERS = 124_439_808
"""With positions, norms and biases, head and embedding tied (openai/gpt-2)."""
D20 = shape_of_depth(20, 32768, TOKENS_PER_ROW)
D20_GROUPED = ModelShape(20, 1280, 10, 2, 5120, 32768, TOKENS_PER_ROW)
KV_SEQUENCES = 64
CHINCHILLA_FLOPS = 5.76e23
CHINCHILLA_PARAMETERS = 70e9
"""The model of arXiv 2203.15556 at that compute."""
HOFFMANN_ROUNDED = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
"""Constants printed in arXiv 2203.15556."""
BESIROGLU = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
"""Corrected constants, arXiv 2404.10102."""
RUN1_DEPTH, RUN1_TOKENS, RUN1_SECONDS, RUN1_BPB, RUN1_FLOPS = 24, 8.76e9, 10_949.0, 0.748, 4.33e19
"""Run 1 of the nanochat leaderboard, 8 H100, 50 % of the bf16 peak."""
RUN1_SHORT_WINDOW = 1024
"""Its short windows in tokens; later versions halved them."""
H100_PEAK_FLOPS = 989e12
PALM_TOKENS_PER_SECOND, PALM_FLOPS_PER_TOKEN = 238.3e3, 6 * 540.35e9 + 12 * 118 * 48 * 256 * 2048
PALM_DEVICES, PALM_PEAK_FLOPS, PALM_MFU = 6144, 275e12, 0.462
"""arXiv 2204.02311."""

PUBLISHED = {  # outputs of its scripts as published with their settings; not run again
    "EleutherAI cookbook": {"d8, 128 rows": 114.5, "d12, 32 rows": 65.9, "kv mha": 6.25, "kv gqa": 6.25},
}
COOKBOOK_RECOMPUTED = {"d8, 128 rows": 34.5, "d12, 32 rows": 20.9}
"""Its memory with --checkpoint-activations, GiB, likewise."""
ANSWERS = (
    ("calculator", "answers", "does not answer, or defects found"),
    ("EleutherAI cookbook", "parameters, FLOPs, memory with ZeRO and 3D parallelism",
     "no logits, no flash attention; KV cache without the factor 2 and with --kv-size-ratio ignored"),
    ("accelerate estimate-memory, model-memory-usage", "weights and Adam of any hub model",
     "batch 1: no activations, tokens or time"),
    ("Ultra-Scale playbook and its visualisers", "memory breakdown, 5D parallelism",
     "Adam only, one dtype for all layers, no time"),
    ("stas00/ml-engineering", "achievable matmul peak, memory anatomy, all-reduce", "no planner"),
    ("llm-analysis", "latency and memory of training and inference", "efficiency is the user's guess; no calibration"),
    ("vram.asmirnov.xyz and similar forms", "memory", "time, cost, loss"),
    ("mlsysim", "memory, energy, carbon, D = 20 P, design search", "the ratio is fixed; no calibration on own runs"),
    ("vTrain, SimuMax", "strategy search with profiled efficiencies", "the machine, not the project's stages"),
    ("chinchilla", "fits L(N, D), allocates compute", "hours, memory, throughput"),
    ("ForgeLM `forge plan`", "runs real steps: memory, tokens/s", "loss, the inverse, other stages"),
    ("academic-pretraining benchmark", "fastest settings by running them", "loss, the inverse, other stages"),
    ("karpathy/nanochat", "one depth sets everything; FLOPs, decode and KV formulas",
     "memory, dollars or hours to depth, intervals"),
    ("this package", "every stage with an interval, the inverse, memory, recalibration from recorded runs",
     "tensor and pipeline parallelism, mixtures of experts"),
)  # fmt: skip
