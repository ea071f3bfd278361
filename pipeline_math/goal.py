"""Step 0, the question and the answer of the solver: what is given, and the plan that was found for it."""

import dataclasses
from dataclasses import dataclass

from pipeline_math.checks import not_negative, positive, share, whole
from pipeline_math.hardware_table import Hardware
from pipeline_math.interval import Interval
from pipeline_math.layouts import Layout
from pipeline_math.loss_law import BEST_RATIO
from pipeline_math.memory_constants import USABLE_MEMORY_SHARE
from pipeline_math.model_flops_vram import ModelShape, shape_train_flops_per_token
from pipeline_math.pretrain_step import mfu
from pipeline_math.training_memory import MemoryBreakdown


@dataclass(frozen=True)
class Goal:
    """What is given. None means: choose, or no limit. ValueError for numbers that count nothing."""

    hours: float
    """Wall clock of the whole pipeline."""
    hardware: Hardware
    devices: int = 1
    optimizer_shards: int = 1
    """Devices the optimizer state is divided among; 1 because every rank of our loop keeps all of it."""
    tokens_per_row: int = 2048
    vocab_size: int = 32768
    ratio: float = BEST_RATIO
    """Wanted training tokens per scaling parameter."""
    depth: int | None = None
    train_tokens: int | None = None
    """Tokens of pretraining, rounded up to whole steps; None: as many as the hours allow."""
    pretrain_share: float | None = None
    """Share of the hours that pretraining uses; None gives it what the other stages leave."""
    mfu: float | None = None
    """Share of peak that training reaches; None takes the prior of the hardware class."""
    unique_tokens: float | None = None
    """Distinct training tokens there are; None means enough."""
    batch_tokens: int | None = None
    micro_batch_rows: int | None = None
    minimum_steps: int = 300
    """Optimizer steps a run needs before a larger batch may be chosen: the batch rule does not hold downwards."""
    memory_bytes: float | None = None
    """Memory of one device; None takes that of the hardware class."""
    ttft_seconds: float | None = None
    """Most seconds from a prompt to the first token of its reply, on one device, one request at a time."""
    tpot_seconds: float | None = None
    """Most seconds per further token, likewise."""
    prompt_tokens: int = 512
    """Length of the prompt that both limits are about."""

    def __post_init__(self) -> None:
        counts = ("devices", "optimizer_shards", "tokens_per_row", "vocab_size", "minimum_steps", "prompt_tokens")
        chosen = ("depth", "train_tokens", "batch_tokens", "micro_batch_rows")
        whole(1, **self._given(*counts, *chosen))
        positive(**self._given("ratio", "mfu", "pretrain_share"))
        share(**self._given("mfu", "pretrain_share"))
        # 0 is an impossible budget, not a wrong number: the solver says what is missing.
        not_negative(**self._given("hours", "unique_tokens", "memory_bytes", "ttft_seconds", "tpot_seconds"))

    def _given(self, *names: str) -> dict[str, float]:
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def device_memory_bytes(self) -> float:
        """Memory of one device."""
        return self.hardware.memory_bytes if self.memory_bytes is None else self.memory_bytes

    @property
    def usable_memory_bytes(self) -> float:
        """The part of it that a plan may fill."""
        return self.device_memory_bytes * USABLE_MEMORY_SHARE

    @property
    def row_tokens_of_all_devices(self) -> int:
        """The smallest batch: one row on each device."""
        return self.tokens_per_row * self.devices


@dataclass(frozen=True)
class Solution:
    """What was found for pretraining; all numbers are those the run will use."""

    goal: Goal
    layout: Layout
    shape: ModelShape
    total_parameters: int
    scaling_parameters: int
    train_flops_per_token: float
    step_seconds: float
    """Most likely seconds of one optimizer step."""
    train_tokens: int
    batch_tokens: int
    micro_batch_rows: int
    micro_batch_rows_limit: int
    """Most rows that fit the device, before rounding and the throughput cap."""
    steps: int
    memory: MemoryBreakdown
    """On one device, by part."""
    bits_per_byte: Interval
    distance: float
    """What the choice of depth minimises: the expected bits per byte if `goal.ratio` were the best ratio."""

    @property
    def memory_bytes(self) -> float:
        """Reserved bytes on one device, the CUDA context included."""
        return self.memory.total_bytes

    @property
    def train_flops(self) -> float:
        """C = F D."""
        return self.train_flops_per_token * self.train_tokens

    @property
    def ratio(self) -> float:
        """Training tokens per scaling parameter (blocks + head)."""
        return self.train_tokens / self.scaling_parameters

    @property
    def epochs(self) -> float | None:
        """Passes over the unique tokens, None if those are not known."""
        return self.train_tokens / self.goal.unique_tokens if self.goal.unique_tokens else None

    @property
    def tokens_per_second(self) -> float:
        """Tokens of a step over its seconds, all devices together."""
        return self.batch_tokens / self.step_seconds

    @property
    def mfu(self) -> float:
        """Share of peak that training is expected to achieve, the overhead of a step included."""
        peak = self.goal.hardware.peak_flops()
        return mfu(self.tokens_per_second, self.train_flops_per_token, self.goal.devices, peak)

    @property
    def as_default_layout(self) -> "Solution":
        """The same plan for functions that count FLOPs of the default layout only, which `equivalent_mfu` corrects."""
        goal = dataclasses.replace(self.goal, mfu=equivalent_mfu(self.goal, self.layout, self.shape))
        return dataclasses.replace(self, goal=goal)


def equivalent_mfu(goal: Goal, layout: Layout, shape: ModelShape) -> float | None:
    """Share of peak at which the default layout would take as long per token; None: the default, at the prior."""
    factor = shape_train_flops_per_token(shape) / layout.train_flops_per_token(shape)
    if goal.mfu is None and factor == 1.0:
        return None
    return factor * (goal.mfu or goal.hardware.mfu)


def memory_fits(found: Solution) -> bool:
    """True if the predicted memory stays within the share of the device a plan may fill."""
    return found.memory_bytes <= found.goal.usable_memory_bytes
