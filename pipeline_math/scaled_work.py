"""A workload for a plan of any size, where nobody has said what the other stages will be asked to do.

Text and conversations grow with pretraining; evaluation, reinforcement learning and serving are those of the shipped
profiles of the device's kind. Left out: how long it takes to obtain the text.
"""

import dataclasses

from pipeline_math.checks import not_negative, share
from pipeline_math.goal import Solution
from pipeline_math.stage_seconds import Workload

MIDTRAIN_SHARE = 0.05
"""ASSUMPTION: tokens of midtraining over those of pretraining."""
SFT_SHARE = 0.08
"""ASSUMPTION: the same of fine-tuning."""

TYPICAL_WORK = {
    "cpu": Workload(),
    "gpu": Workload(
        kept_share=0.7,
        tokenizer_bytes=5.0e8,
        bytes_per_token=4.7,  # web text at V = 32,768
        evaluations=12,
        evaluation_tokens=2**21,
        rl_steps=50,
        rl_samples_per_step=256,
        rl_new_tokens=96,
        benchmark_tokens=500_000,
        benchmark_decode_steps=5000,
    ),
}
"""Amounts that do not grow with pretraining, by kind of device."""


@dataclasses.dataclass(frozen=True)
class ScaledWork:
    """Makes the workload of a plan: `target_budget.solve(goal, work=ScaledWork().of)`."""

    raw_bytes: float | None = None
    """Raw text there is; None: as much as one pass over the training tokens, or over `unique_tokens`, takes."""
    midtrain_share: float = MIDTRAIN_SHARE
    sft_share: float = SFT_SHARE

    def __post_init__(self) -> None:
        share(midtrain_share=self.midtrain_share, sft_share=self.sft_share)
        if self.raw_bytes is not None:
            not_negative(raw_bytes=self.raw_bytes)

    def of(self, found: Solution) -> Workload:
        """The workload of a plan."""
        base = TYPICAL_WORK[found.goal.hardware.kind]
        unique = found.goal.unique_tokens
        tokens = found.train_tokens if unique is None else min(found.train_tokens, unique)
        return dataclasses.replace(
            base,
            corpus_bytes=tokens * base.bytes_per_token / base.kept_share if self.raw_bytes is None else self.raw_bytes,
            midtrain_tokens=round(self.midtrain_share * found.train_tokens),
            sft_tokens=round(self.sft_share * found.train_tokens),
            chat_batch_tokens=found.batch_tokens,
        )


def tokens_of_raw_bytes(raw_bytes: float, kind: str) -> float:
    """Distinct tokens that raw text is expected to leave: bytes times kept share over bytes per token."""
    base = TYPICAL_WORK[kind]
    return raw_bytes * base.kept_share / base.bytes_per_token
