"""Run other calculators on the published cases, each with the nearest settings it has; nothing of theirs is rewritten.

    python -m benchmarks.other_calculators            print what the packages installed here say
    python -m benchmarks.other_calculators --record   the same, and keep it in calculator_outputs_202611.json

They need conflicting versions of numpy, so use one virtual environment each (Python 3.11):
`pip install llm-analysis`, `pip install mlsysim`, `pip install chinchilla`.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.published_cases import (
    BESIROGLU,
    CHINCHILLA_FLOPS,
    D20,
    D20_GROUPED,
    GPT2,
    GPT2_PARAMETERS,
    HOFFMANN_ROUNDED,
    KV_SEQUENCES,
    MEMORY_CASES,
    RUN1_DEPTH,
    RUN1_TOKENS,
    TOKENS_PER_ROW,
    MemoryCase,
)
from pipeline_math.layouts import RESEARCH
from pipeline_math.model_flops_vram import ModelShape, shape_of_depth

RECORDED = Path(__file__).with_name("calculator_outputs_202611.json")
GIB = 1024**3


def llm_analysis_outputs() -> dict[str, float]:
    """bf16 weights, Adam, flash attention, ZeRO-1 over the devices; it has neither value embeddings nor windows."""
    from llm_analysis.analysis import DSZeRO, LLMAnalysis
    from llm_analysis.config import ModelConfig, ParallelismConfig, get_gpu_config_by_name

    logging.disable(logging.CRITICAL)

    def analysis(shape: ModelShape, devices: int = 1) -> Any:
        model = ModelConfig(
            name="case",
            num_layers=shape.n_layers,
            n_head=shape.n_heads,
            hidden_dim=shape.d_model,
            vocab_size=shape.vocab_size,
            max_seq_len=shape.tokens_per_row,
            num_key_value_heads=shape.n_kv_heads,
            ffn_embed_dim=shape.mlp_width,
        )
        gpu = dataclasses.replace(get_gpu_config_by_name("h100-sxm-80gb"), mem_per_GPU_in_GB=1e6)  # or it refuses
        return LLMAnalysis(model, gpu, parallelism_config=ParallelismConfig(dp_size=devices), flops_efficiency=0.5)

    def memory(case: MemoryCase) -> float:
        found = analysis(case.shape, case.devices).training(
            batch_size_per_gpu=case.rows,
            gradient_accumulation_steps=1,
            seq_len=TOKENS_PER_ROW,
            total_num_tokens=1e9,
            ds_zero=DSZeRO.STAGE_1 if case.devices > 1 else DSZeRO.NONE,
        )
        parts = ("weight", "gradient", "optimizer_state", "activation")
        return sum(found[f"{part}_memory_per_gpu"] for part in parts) / GIB

    run1 = analysis(shape_of_depth(RUN1_DEPTH, 32768, TOKENS_PER_ROW), 8).training(
        batch_size_per_gpu=16, gradient_accumulation_steps=2, seq_len=TOKENS_PER_ROW, total_num_tokens=RUN1_TOKENS,
        ds_zero=DSZeRO.STAGE_1,
    )  # fmt: skip
    kv = {
        name: shape.n_layers * analysis(shape).get_memory_kv_cache_per_layer(KV_SEQUENCES, TOKENS_PER_ROW) / GIB
        for name, shape in (("kv mha", D20), ("kv gqa", D20_GROUPED))
    }
    return {
        **{case.name: memory(case) for case in MEMORY_CASES},
        **kv,
        "gpt2 flops": 3 * analysis(GPT2).get_num_flops_fwd_total(1, 1024) / 1024,
        "run 1 seconds": float(run1["total_training_latency"]),
    }


def mlsysim_outputs() -> dict[str, float]:
    """Adam in bf16, "selective" recomputation (its name for 34 s b h), ZeRO-1 over the devices."""
    from mlsysim import Hardware
    from mlsysim.core.units import Q_, ureg
    from mlsysim.models.types import TransformerWorkload
    from mlsysim.physics.performance import dTime
    from mlsysim.physics.transformer import calc_transformer_training_flops
    from mlsysim.solvers import ScalingModel, TrainingMemoryModel

    h100 = Hardware.Cloud.H100

    def workload(shape: ModelShape, parameters: int) -> Any:
        return TransformerWorkload(
            name="case",
            architecture="transformer",
            parameters=Q_(parameters, ureg.count),
            layers=shape.n_layers,
            hidden_dim=shape.d_model,
            heads=shape.n_heads,
            kv_heads=shape.n_kv_heads,
            vocab_size=shape.vocab_size,
        )

    def memory(case: MemoryCase) -> float:
        found = TrainingMemoryModel().solve(
            workload(case.shape, case.parameters),
            h100,
            batch_size=case.rows * case.devices,
            seq_len=TOKENS_PER_ROW,
            precision="bf16",
            dp_size=case.devices,
            zero_stage=1 if case.devices > 1 else 0,
        )
        return float(found.total_memory.to("byte").magnitude) / GIB

    d24 = RESEARCH.total_parameters(shape_of_depth(RUN1_DEPTH, 32768, TOKENS_PER_ROW))
    run1 = calc_transformer_training_flops(Q_(d24, ureg.count), Q_(RUN1_TOKENS, ureg.count))
    optimum = ScalingModel().solve(Q_(CHINCHILLA_FLOPS, ureg.flop))
    gpt2 = calc_transformer_training_flops(Q_(GPT2_PARAMETERS, ureg.count), Q_(1, ureg.count))
    kv = {
        name: workload(shape, 1).get_kv_cache_size(TOKENS_PER_ROW, KV_SEQUENCES).to("byte").magnitude / GIB
        for name, shape in (("kv mha", D20), ("kv gqa", D20_GROUPED))
    }
    return {
        **{case.name: memory(case) for case in MEMORY_CASES},
        **kv,
        "gpt2 flops": float(gpt2.to("flop").magnitude),
        "run 1 seconds": float(dTime(run1, 8, h100.compute.peak_flops, 0.5).to("second").magnitude),
        "chinchilla parameters": float(optimum.optimal_parameters.magnitude),
    }


def chinchilla_outputs() -> dict[str, float]:
    """It takes the constants from its user: those printed in the paper, and the corrected ones."""
    from chinchilla import Chinchilla

    return {
        "chinchilla parameters": float(Chinchilla.allocate_compute(CHINCHILLA_FLOPS, HOFFMANN_ROUNDED)[0]),
        "chinchilla parameters, corrected": float(Chinchilla.allocate_compute(CHINCHILLA_FLOPS, BESIROGLU)[0]),
    }


RUNNERS: dict[str, tuple[str, Callable[[], dict[str, float]]]] = {
    "llm-analysis": ("llm_analysis", llm_analysis_outputs),
    "mlsysim": ("mlsysim", mlsysim_outputs),
    "chinchilla": ("chinchilla", chinchilla_outputs),
}
"""Distribution -> (module, function)."""


def installed_outputs() -> dict[str, dict[str, Any]]:
    """{distribution: {version, date, outputs}} of the calculators that can be imported here."""
    return {
        name: {
            "version": importlib.metadata.version(name),
            "date": datetime.date.today().isoformat(),
            "outputs": run(),
        }
        for name, (module, run) in RUNNERS.items()
        if importlib.util.find_spec(module)
    }


def known_outputs() -> dict[str, dict[str, Any]]:
    """What was recorded, replaced by what is installed here."""
    recorded = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    return recorded | installed_outputs()


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.other_calculators")
    parser.add_argument("--record", action="store_true", help=f"keep the outputs in {RECORDED.name}")
    found = installed_outputs()
    if not found:
        raise SystemExit(f"none of {', '.join(RUNNERS)} is installed here; next: see this module's docstring")
    if parser.parse_args().record:
        RECORDED.write_text(json.dumps(known_outputs(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
