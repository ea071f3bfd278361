"""Measured constants of the machines the stages run on: the one place to calibrate stage-time predictions.

A time is predicted as: process start + fixed work + amount / rate. Rates of tensor work are not here: they follow
from `hardware.py` (peak and MFU). To calibrate, run the pipeline, compare `seconds` predicted and measured in
metrics/<stage>.json, and change the constant of the stage whose prediction is off.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class MachineConstants:
    """What one machine class needs for the work that is not matrix products. Rates count all cores together."""

    process_seconds: float
    """Start a stage: interpreter, parameters, tracking, commit of the outputs."""
    torch_seconds: float
    """Import torch and move a model to the device."""
    corpus_fixed_seconds: float
    """Extract the documentation of installed packages, write reports."""
    corpus_bytes_per_second: float
    """Raw text through cleaning, filters and near-duplicate search."""
    tokenizer_train_bytes_per_second: float
    """Text counted and merged when the tokenizer is trained."""
    encode_bytes_per_second: float
    """Text to packed token ids."""
    conversation_tokens_per_second: float
    """Conversations of midtrain and sft made, rendered and packed."""
    training_fixed_seconds: float
    """First step (memory, kernels or compilation), last checkpoint, curve."""
    step_overhead_seconds: float
    """Bookkeeping of one optimizer step that grows with neither tokens nor parameters."""
    newton_schulz_peak_share: float | None
    """Share of peak FLOP/s that Muon's orthogonalisation reaches; None where the MFU already includes the optimizer."""
    decode_step_seconds: float
    """One step of the engine with a batch of rollouts or benchmark prompts."""
    evaluation_fixed_seconds: float
    """Load checkpoints and benchmarks, draw plots, write the report."""
    export_fixed_seconds: float
    """Import transformers, write the folder, compare logits."""
    inference_fixed_seconds: float
    """Measure the engine: repeated prefills and decodes."""
    chat_fixed_seconds: float
    """Start the server and hold one conversation."""
    micro_batch_tokens: int
    """Tokens of a micro-batch beyond which throughput no longer grows."""
    data_log_sd: float
    """Uncertainty of the data stages' times: standard deviation of the logarithm."""
    fixed_log_sd: float
    """Uncertainty of stages made of fixed work."""


CPU_2CORE = MachineConstants(
    process_seconds=0.7,  # FITTED: Python, DVC's keys, parameters, publishing; MLflow runs beside it
    torch_seconds=1.5,  # `import torch` on a warm disk
    # The next four: two quiet cores, python_docs, 36.6 MB raw, 28 MB kept: 16.2 s, 7.2 s and 6.3 s; a busy machine
    # took 31 s, 12 s and 7 s.
    corpus_fixed_seconds=4.0,
    corpus_bytes_per_second=2.6e6,
    tokenizer_train_bytes_per_second=3.8e6,
    encode_bytes_per_second=4.8e6,
    conversation_tokens_per_second=2.0e5,
    training_fixed_seconds=1.5,
    step_overhead_seconds=0.005,  # FITTED to midtrain and sft
    newton_schulz_peak_share=0.35,  # FITTED to midtrain and sft; timed alone: 0.25 (20.1 GFLOP in 57 ms)
    decode_step_seconds=0.003,  # FITTED to the seconds of evaluation and rl; the engine alone: 1.5 ms at batch 1
    evaluation_fixed_seconds=4.0,
    export_fixed_seconds=4.0,
    inference_fixed_seconds=3.0,
    chat_fixed_seconds=5.0,
    micro_batch_tokens=8192,
    data_log_sd=0.30,
    fixed_log_sd=0.35,
)
"""Two cores of a virtual machine or laptop."""

GPU_HOST = MachineConstants(
    process_seconds=3.0,
    torch_seconds=8.0,  # import, CUDA context
    corpus_fixed_seconds=20.0,
    corpus_bytes_per_second=2.0e7,  # ASSUMPTION: sixteen cores
    tokenizer_train_bytes_per_second=2.0e7,
    encode_bytes_per_second=4.0e7,
    conversation_tokens_per_second=4.0e5,
    training_fixed_seconds=60.0,
    step_overhead_seconds=0.01,
    newton_schulz_peak_share=None,
    decode_step_seconds=0.006,  # launch bound: ~200 kernels of 3-5 us and Python around them
    evaluation_fixed_seconds=60.0,
    export_fixed_seconds=30.0,
    inference_fixed_seconds=60.0,
    chat_fixed_seconds=15.0,
    micro_batch_tokens=65536,
    data_log_sd=0.60,
    fixed_log_sd=0.60,
)
"""The host of a GPU with about sixteen cores. ASSUMED, not measured: wide intervals."""


def constants_of(kind: str) -> MachineConstants:
    """Constants for a device kind, "cpu" or "gpu"."""
    return CPU_2CORE if kind == "cpu" else GPU_HOST
