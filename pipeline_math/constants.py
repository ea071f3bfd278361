"""The uncertain constants of every device class, and how precisely each kind of quantity can be known at all.

Amounts are chosen so that constants carry over between machines: work that is bound by products is counted in seconds
at the class's peak, work bound by memory in seconds at its bandwidth; their constants are slow-downs (-). Fixed costs
are in seconds. Priors of the CPU classes come from two-core runs (commands in benchmarks/prediction_accuracy.py); their
spreads are those with which another machine of the class is expected. GPU priors are assumed, and wide.
"""

from collections.abc import Mapping

from pipeline_math.forecast import Calibration, Constant, Noise, prior
from pipeline_math.hardware import Hardware

_FITTED = "fitted to steps of 30 shapes, 0.03 M to 30 M parameters, on two cores; see benchmarks/"
_SHAPES = "fitted to steps of 21 random shapes on two cores: python -m benchmarks.step_shapes --shapes 28"
_PIPELINES = "fitted to seven random pipelines on two cores; see benchmarks/"
_RECORDED = "fitted to the recorded laptop run and the pulse on two cores"
_ASSUMED = "assumed, not measured"

_CPU = (
    # One optimizer step, `step_time.step_terms`.
    Constant("products", 0.5, 0.25, "-", "matrix products of the blocks, forward and backward", _SHAPES),
    Constant("head_products", 1.18, 0.30, "-", "products of the head", _SHAPES),
    Constant("softmax", 7.5, 0.20, "-", "loss: passes over the logits, 4 B each, while they are in the cache", _SHAPES),
    Constant(
        "elementwise", 148.0, 0.20, "-", "passes over the activations of a layer, 4 B per token and channel", _SHAPES
    ),
    Constant("scores", 13.4, 0.25, "-", "passes over explicit attention scores, 4 B each", _SHAPES),
    Constant("score_products", 1.36, 0.35, "-", "products of explicit attention", _SHAPES),
    Constant("fused_attention", 3.3, 0.35, "-", "fused attention", _FITTED),
    Constant(
        "weight_passes", 7.4, 0.25, "-", "passes over weights and their gradients per micro-batch, 4 B each", _SHAPES
    ),
    Constant("layer_calls", 1.8e-3, 0.20, "s", "operators of one layer on one micro-batch", _SHAPES),
    Constant("orthogonalisation", 1.06, 0.20, "-", "products of Muon", _SHAPES),
    Constant("optimizer_passes", 10.7, 0.25, "-", "passes over weights and optimizer state, 4 B each", _SHAPES),
    Constant("optimizer_calls", 2.1e-3, 0.25, "s", "operators of the optimizer on one layer", _SHAPES),
    Constant("step_once", 4.4e-3, 0.30, "s", "batch, schedule and bookkeeping of one step", _SHAPES),
    Constant("whole_model", 1.0, 0.10, "-", "all of a step over its time at a given MFU", _ASSUMED),
    # Stages.
    Constant("process", 0.22, 0.30, "s", "interpreter, keys, parameters, publishing", _PIPELINES),
    Constant("torch_import", 1.55, 0.20, "s", "import torch, move a model to the device", _PIPELINES),
    Constant("documentation", 1.9, 0.40, "s", "find and import what documentation is read from", _PIPELINES),
    Constant("corpus_once", 1.5, 0.40, "s", "start workers, load libraries, draw the report", _FITTED),
    Constant("raw_bytes", 5.0e-7, 0.45, "s/B", "read, measure, sign text; long documents take half", _FITTED),
    Constant("judged_bytes", 4.0e-8, 0.40, "s/B", "thresholds, duplicates, writing", _FITTED),
    Constant("training_text", 2.0e-7, 0.30, "s/B", "count words for the tokenizer", _FITTED),
    Constant("merges", 1.0e-4, 0.50, "s", "one merge of the tokenizer, report included", _PIPELINES),
    # Encoding is cached per corpus file, packing is not: 152 MB take 10 s the first time and 1 s with another seed
    # (benchmarks/packing_cpu_202611.md). The recorded laptop run has one file of short documents, which costs twice as
    # much per byte.
    Constant("shards_once", 0.85, 0.50, "s", "import what reads, packs and writes", _FITTED),
    Constant("encoding", 1.4e-7, 0.45, "s/B", "encode text", _FITTED),
    Constant("packing", 1.0e-8, 0.50, "s/B", "split and pack ids", _FITTED),
    Constant("first_step", 1.15, 0.25, "s", "what a training stage does once", _PIPELINES),
    Constant("state_bytes", 3.4e-9, 0.60, "s/B", "write a training state", _PIPELINES),
    Constant("conversations", 5.6e-6, 0.35, "s", "make, render and pack one token of conversation", _PIPELINES),
    Constant("prefill_once", 2.5e-4, 0.40, "s", "calls of a prompt beyond those of a decode step", _PIPELINES),
    Constant("decode_once", 1.6e-4, 0.35, "s", "head, sampling and bookkeeping of one decode step", _PIPELINES),
    Constant("decode_layers", 1.65e-4, 0.25, "s", "operators of one layer in one decode step", _PIPELINES),
    Constant("decode_weights", 1.15, 0.40, "-", "read the weights once per decode step", _PIPELINES),
    Constant("decode_rows", 3.8e-5, 0.50, "s", "bookkeeping of one row in one decode step", _PIPELINES),
    Constant("evaluation_once", 1.5, 0.35, "s", "benchmarks made, plots drawn", _PIPELINES),
    Constant("evaluation_text", 5.0e-8, 0.40, "s/B", "search training text for what is asked", _FITTED),
    Constant("evaluation_each", 0.51, 0.35, "s", "one checkpoint loaded, its latency measured", _PIPELINES),
    Constant("registry", 1.5, 0.30, "s", "import MLflow and ask it for the champion", _PIPELINES),
    Constant("export_once", 1.4, 0.25, "s", "import transformers, compare logits", _PIPELINES),
    Constant("inference_once", 0.36, 0.40, "s", "load the export, warm up", _PIPELINES),
    Constant("chat_once", 1.8, 0.25, "s", "start the server", _PIPELINES),
    # Memory, `training_memory_terms`.
    Constant("process_bytes", 3.86e8, 0.10, "B", "interpreter, torch, libraries", _FITTED),
    Constant(
        "conversation_bytes",
        6.7e7,
        0.30,
        "B",
        "making and packing conversations before they are trained on",
        _PIPELINES,
    ),
    Constant("static_bytes", 1.1, 0.20, "-", "over the count of weights, gradients and optimizer state", _FITTED),
    Constant("activation_bytes", 2.2, 0.15, "-", "over the count: the allocator keeps what it has freed", _FITTED),
    Constant("score_bytes", 1.0, 0.25, "-", "over the count of attention weights kept", _FITTED),
    Constant("logit_bytes", 1.25, 0.25, "-", "over the count of the loss's work", _FITTED),
)

_GPU = (
    Constant("whole_model", 1.0, 0.15, "-", "all of a step over its time at the class's MFU", "spread of the class"),
    Constant("step_once", 0.01, 0.6, "s", "launches and bookkeeping of one step", _ASSUMED),
    Constant("process", 3.0, 0.6, "s", "interpreter, keys, parameters, publishing", _ASSUMED),
    Constant("torch_import", 8.0, 0.6, "s", "import torch, CUDA context", _ASSUMED),
    Constant("documentation", 8.0, 0.6, "s", "find and import what documentation is read from", _ASSUMED),
    Constant("corpus_once", 10.0, 0.6, "s", "start workers, load libraries, draw the report", _ASSUMED),
    Constant("raw_bytes", 4.0e-8, 0.6, "s/B", "read, clean, measure and sign text, sixteen cores", _ASSUMED),
    Constant("judged_bytes", 1.0e-8, 0.6, "s/B", "thresholds, duplicates, writing, sixteen cores", _ASSUMED),
    Constant("training_text", 5.0e-8, 0.6, "s/B", "count words for the tokenizer, one core", _ASSUMED),
    Constant("merges", 1.5e-4, 0.6, "s", "one merge of the tokenizer", _ASSUMED),
    Constant("shards_once", 3.0, 0.6, "s", "import what reads, packs and writes", _ASSUMED),
    Constant("encoding", 1.0e-8, 0.6, "s/B", "encode text, sixteen cores", _ASSUMED),
    Constant("packing", 2.0e-9, 0.6, "s/B", "split and pack ids, sixteen cores", _ASSUMED),
    Constant("first_step", 60.0, 0.6, "s", "what a training stage does once, compilation included", _ASSUMED),
    Constant("state_bytes", 1.0e-9, 0.6, "s/B", "write a training state", _ASSUMED),
    Constant("conversations", 2.5e-6, 0.6, "s", "make, render and pack one token of conversation", _ASSUMED),
    Constant("prefill_once", 1.0e-3, 0.6, "s", "calls of a prompt beyond those of a decode step", _ASSUMED),
    Constant("decode_once", 1.0e-3, 0.6, "s", "head, sampling and bookkeeping of one decode step", _ASSUMED),
    Constant("decode_layers", 2.5e-4, 0.6, "s", "kernel launches of one layer in one decode step", _ASSUMED),
    Constant("decode_weights", 1.3, 0.4, "-", "read the weights once per decode step", _ASSUMED),
    Constant("decode_rows", 3.0e-5, 0.6, "s", "bookkeeping of one row in one decode step", _ASSUMED),
    Constant("evaluation_once", 60.0, 0.6, "s", "benchmarks made, plots drawn", _ASSUMED),
    Constant("evaluation_text", 5.0e-9, 0.6, "s/B", "search training text for what is asked, sixteen cores", _ASSUMED),
    Constant("evaluation_each", 10.0, 0.6, "s", "one checkpoint loaded, its latency measured", _ASSUMED),
    Constant("registry", 2.0, 0.6, "s", "import MLflow and ask it for the champion", _ASSUMED),
    Constant("export_once", 30.0, 0.6, "s", "import transformers, compare logits", _ASSUMED),
    Constant("inference_once", 60.0, 0.6, "s", "load the export, warm up", _ASSUMED),
    Constant("chat_once", 15.0, 0.6, "s", "start the server", _ASSUMED),
    Constant("process_bytes", 1.0e9, 0.3, "B", "CUDA context", "0.3 to 2 GiB published"),
    Constant("conversation_bytes", 1.0, 0.10, "B", "none on the device", "by construction"),
    Constant("static_bytes", 1.0, 0.05, "-", "weights, gradients and optimizer state", "exact but for copies"),
    Constant("activation_bytes", 1.15, 0.20, "-", "reserved over counted bytes", "1.04 to 1.52 published"),
    Constant("score_bytes", 1.15, 0.30, "-", "kept attention weights", _ASSUMED),
    Constant("logit_bytes", 1.15, 0.20, "-", "one chunk of logits and its copies", _ASSUMED),
)

_SMALL_RUNS = "fitted to 19 runs of 0.05 M to 4 M parameters on 0.4 MB to 11 MB of Python's documentation, rms 2.7 %"
_LOSS = (
    Constant("irreducible", 0.70, 0.20, "bit/B", "bits per byte of the text that nothing removes", _SMALL_RUNS),
    Constant("too_few_parameters", 0.14, 0.40, "bit/B", "excess of a model of 1 M parameters", _SMALL_RUNS),
    Constant("too_few_bytes", 0.73, 0.15, "bit/B", "excess after 10 MB of text", _SMALL_RUNS),
    Constant("small_vocabulary", 0.305, 0.20, "bit/B", "excess of a vocabulary of 1,024 tokens", _SMALL_RUNS),
)

CONSTANTS: Mapping[str, Mapping[str, Constant]] = {
    kind: {constant.name: constant for constant in (*own, *_LOSS)} for kind, own in (("cpu", _CPU), ("gpu", _GPU))
}
"""Priors by device kind and name."""

_STAGE_SECONDS = Noise(log_sd=0.03, absolute=0.08, formula_log_sd=0.07)
_ONE_STEP = Noise(log_sd=0.03, formula_log_sd=0.09)
_MEMORY = Noise(log_sd=0.015, absolute=8.0e6, formula_log_sd=0.03)
_LATENCY = Noise(log_sd=0.08, formula_log_sd=0.12)
_LOSS_NOISE = Noise(log_sd=0.015, formula_log_sd=0.035)

_NOISE = {
    "seconds": _STAGE_SECONDS,
    "step_seconds": _ONE_STEP,
    "peak_memory_bytes": _MEMORY,
    "bits_per_byte": _LOSS_NOISE,
    "ttft_seconds": _LATENCY,
    "seconds_per_output_token": _LATENCY,
}


def noise_of(quantity: str) -> Noise:
    """Noise of "stage.quantity" or "quantity"; KeyError for one that is not forecast by terms."""
    return _NOISE[quantity.rpartition(".")[2]]


def knows_all(calibration: Calibration, hardware: Hardware) -> bool:
    """Are its constants exactly those of the class now? Not when it was learnt by another version of the formulas."""
    return set(calibration.names) == set(CONSTANTS[hardware.kind])


def prior_of(hardware: Hardware) -> Calibration:
    """Constants of a device class before anything was measured on it."""
    constants = dict(CONSTANTS[hardware.kind])
    if hardware.kind == "gpu":
        known = constants["whole_model"]
        constants["whole_model"] = Constant(
            known.name, known.value, hardware.mfu_log_sd, known.unit, known.meaning, hardware.source
        )
    return prior(constants)
