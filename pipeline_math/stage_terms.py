"""What each stage's seconds, memory and loss are made of: amounts (known numbers) -> terms of `forecast`.

The same functions serve the plan, with the amounts it expects, and the calibration, with the amounts that came. Amounts
are a mapping of names with units, so that the ledger can store them. Stage names appear here as text because this
package may import nothing; a test compares them with the pipeline's.
"""

from collections.abc import Mapping

from pipeline_math.forecast import Terms
from pipeline_math.hardware import Hardware
from pipeline_math.layouts import DEFAULT
from pipeline_math.model_flops_vram import ModelShape, scaling_parameters
from pipeline_math.static_memory import static_memory_bytes
from pipeline_math.step_time import (
    added,
    forward_terms,
    scaled,
    step_terms,
    uses_explicit_attention,
)
from pipeline_math.training_memory import MemoryOptions, training_memory

Amounts = Mapping[str, float]

TRAINING_STAGES = ("pretrain", "midtrain", "sft")
STAGE_ORDER = (
    "budget",
    "corpus",
    "tokenizer",
    "shards",
    "architecture",
    *TRAINING_STAGES,
    "rl",
    "evaluation",
    "gate",
    "export",
    "inference",
    "chat",
)
"""Order of execution, also that of a printed plan."""
REFERENCE_PARAMETERS, REFERENCE_BYTES, REFERENCE_VOCABULARY = 1.0e6, 1.0e7, 1024.0
"""Scale at which the constants of the loss are quoted."""
SMALL_SCALE_FLOPS = 1.0e16
"""Training FLOPs (6 N D) up to which the loss is forecast from own small runs; beyond, by `loss_law`."""
PARAMETER_EXPONENT, BYTES_EXPONENT = 0.35, 0.25
"""Chinchilla's exponent (Besiroglu 2024, arXiv 2404.10102) and the one that fitted own small runs."""


def shape_of(amounts: Amounts) -> ModelShape:
    """The model's shape out of a stage's amounts."""
    names = ("n_layers", "d_model", "n_heads", "n_kv_heads", "mlp_width", "vocab_size", "tokens_per_row")
    return ModelShape(*(int(amounts[name]) for name in names))


def shape_amounts(shape: ModelShape) -> dict[str, float]:
    """The inverse of `shape_of`."""
    return {name: float(value) for name, value in vars(shape).items()}


def seconds_terms(stage: str, amounts: Amounts, hardware: Hardware) -> dict[str, float]:
    """Terms of a stage's seconds, from process start to published outputs; KeyError when an amount is missing."""
    if stage in TRAINING_STAGES:
        return added({"process": 1.0, "torch_import": 1.0}, _training(amounts, hardware))
    if stage == "rl":
        return added({"process": 1.0, "torch_import": 1.0}, _policy(amounts, hardware))
    if stage == "evaluation":
        return added({"process": 1.0, "torch_import": 1.0, "evaluation_once": 1.0}, _evaluation(amounts, hardware))
    if stage == "inference":
        return added({"process": 1.0, "torch_import": 1.0, "inference_once": 1.0}, _decode(amounts, hardware))
    if stage == "chat":
        return added({"process": 1.0, "torch_import": 1.0, "chat_once": 1.0}, _decode(amounts, hardware))
    fixed: dict[str, dict[str, float]] = {
        "budget": {},
        "gate": {"registry": amounts.get("champion", 0.0)},
        "architecture": {"torch_import": 1.0},
        "export": {"torch_import": 1.0, "export_once": 1.0},
    }
    if stage in fixed:
        return {"process": 1.0, **fixed[stage]}
    data: dict[str, dict[str, str]] = {
        "corpus": {"documentation": "documentation_sources", "judged_bytes": "raw_bytes"},
        "tokenizer": {"training_text": "train_bytes", "merges": "merges"},
        "shards": {"packing": "kept_bytes"},
    }
    terms = {"process": 1.0, **{constant: amounts[amount] for constant, amount in data[stage].items()}}
    if stage == "shards":
        terms |= {"shards_once": 1.0, "encoding": amounts.get("new_bytes", amounts["kept_bytes"])}
    if stage == "corpus":  # what an earlier run left in the cache is neither read nor measured again
        terms |= {"corpus_once": 1.0, "raw_bytes": amounts.get("new_bytes", amounts["raw_bytes"])}
    return terms


def step_seconds_terms(amounts: Amounts, hardware: Hardware) -> dict[str, float]:
    """Terms of one optimizer step of a training stage."""
    return step_terms(
        hardware,
        shape_of(amounts),
        amounts["batch_tokens"],
        amounts["micro_batch_rows"],
        int(amounts.get("devices", 1)),
        amounts.get("mfu") or None,
        amounts.get("supervised_share", 1.0),
    )


def peak_memory_terms(amounts: Amounts, hardware: Hardware) -> dict[str, float]:
    """Terms of the peak memory of a training process, device memory on a GPU: the parts of `training_memory`.

    `activation_bytes` and `explicit_attention` may stand among the amounts; else they follow the class, as in training.
    """
    shape, rows = shape_of(amounts), int(amounts["micro_batch_rows"])
    explicit = amounts.get("explicit_attention", uses_explicit_attention(hardware, shape.tokens_per_row))
    options = MemoryOptions(
        activation_bytes=int(amounts.get("activation_bytes", 2 if hardware.precision() == "bf16" else 4)),
        kind=hardware.kind,
        explicit_attention=bool(explicit),
    )
    parts = training_memory(shape, rows, DEFAULT.static_bytes(shape, int(amounts.get("optimizer_shards", 1))), options)
    return {
        "process_bytes": 1.0,
        "conversation_bytes": 1.0 if amounts.get("conversation_tokens") else 0.0,
        "static_bytes": parts.weights_bytes + parts.gradients_bytes + parts.optimizer_bytes,
        "activation_bytes": parts.activations_bytes,
        "logit_bytes": parts.logits_bytes,
        "score_bytes": parts.attention_scores_bytes,
    }


def bits_per_byte_terms(parameters: float, trained_bytes: float, vocab_size: float) -> dict[str, float]:
    """Terms of a small model's loss on its own kind of text: E + A / N^0.35 + B / bytes^0.25 + C / V.

    N = blocks and head. The sum of Hoffmann 2022 (arXiv 2203.15556), in bytes so that vocabularies compare, and a term
    of its own for vocabularies so small that a barely trained model profits from every merge. Fitted to this pipeline's
    schedule, valid up to about 1e16 FLOPs; `loss_law` has the law of larger runs. Left out: row length, batch.
    """
    return {
        "irreducible": 1.0,
        "too_few_parameters": (parameters / REFERENCE_PARAMETERS) ** -PARAMETER_EXPONENT,
        "too_few_bytes": (trained_bytes / REFERENCE_BYTES) ** -BYTES_EXPONENT,
        "small_vocabulary": REFERENCE_VOCABULARY / vocab_size,
    }


def is_small_scale(amounts: Amounts) -> bool:
    """Does `bits_per_byte_terms` hold for a pretraining of these amounts?"""
    if not amounts.get("trained_bytes"):
        return False
    tokens = amounts["steps"] * amounts["batch_tokens"]
    return 6.0 * scaling_parameters(shape_of(amounts)) * tokens <= SMALL_SCALE_FLOPS


def terms_of(stage: str, quantity: str, amounts: Amounts, hardware: Hardware) -> Terms | None:
    """Terms of a quantity in the ledger, None for one that is not forecast by terms."""
    if quantity == "seconds":
        return seconds_terms(stage, amounts, hardware)
    if quantity == "step_seconds" and stage in TRAINING_STAGES:
        return step_seconds_terms(amounts, hardware)
    if quantity == "peak_memory_bytes" and stage in TRAINING_STAGES:
        return peak_memory_terms(amounts, hardware)
    if quantity == "bits_per_byte" and is_small_scale(amounts):
        parameters = scaling_parameters(shape_of(amounts))
        return bits_per_byte_terms(parameters, amounts["trained_bytes"], amounts["vocab_size"])
    if stage == "inference" and quantity == "seconds_per_output_token":
        return _decode_steps(shape_of(amounts), hardware, 1.0, 1.0)
    if stage == "inference" and quantity == "ttft_seconds":
        return _prefill(shape_of(amounts), hardware, amounts["prompt_tokens"])
    return None


def _training(amounts: Amounts, hardware: Hardware) -> dict[str, float]:
    shape, devices = shape_of(amounts), int(amounts.get("devices", 1))
    return added(
        {
            "first_step": 1.0,
            "conversations": amounts.get("conversation_tokens", 0.0),
            "state_bytes": amounts.get("state_saves", 1.0) * static_memory_bytes(shape) / 2.0,
        },
        scaled(step_seconds_terms(amounts, hardware), amounts["steps"]),
        forward_terms(hardware, shape, amounts.get("evaluation_tokens", 0.0), devices),
    )


def _policy(amounts: Amounts, hardware: Hardware) -> dict[str, float]:
    if not amounts["steps"]:
        return {}
    shape = shape_of(amounts)
    decode = _decode_steps(shape, hardware, amounts["decode_steps"], amounts["rows_per_decode_step"])
    update = step_terms(hardware, shape, amounts["batch_tokens"], amounts["micro_batch_rows"])
    return added({"first_step": 1.0}, scaled(update, amounts["steps"]), decode)


def _evaluation(amounts: Amounts, hardware: Hardware) -> dict[str, float]:
    shape = shape_of(amounts)
    return added(
        {"evaluation_each": amounts["checkpoints"], "evaluation_text": amounts.get("text_bytes", 0.0)},
        forward_terms(hardware, shape, amounts["forward_tokens"]),
        _decode_steps(shape, hardware, amounts["decode_steps"], amounts["rows_per_decode_step"]),
    )


def _decode(amounts: Amounts, hardware: Hardware) -> dict[str, float]:
    return _decode_steps(shape_of(amounts), hardware, amounts["decode_steps"], amounts["rows_per_decode_step"])


def _prefill(shape: ModelShape, hardware: Hardware, tokens: float) -> dict[str, float]:
    """Terms of reading a prompt: the calls of one decode step, and what grows with the prompt's tokens."""
    compute = forward_terms(hardware, shape, tokens)
    grows = ("whole_model", "products", "elementwise", "scores", "score_products", "fused_attention")
    kept = {name: compute[name] for name in grows if name in compute}
    return added({"prefill_once": 1.0}, kept, _decode_steps(shape, hardware, 1.0, 1.0))


def _decode_steps(shape: ModelShape, hardware: Hardware, steps: float, rows: float) -> dict[str, float]:
    """Terms of `steps` decode steps over `rows` sequences: calls, weights read, bookkeeping."""
    weight_bytes = scaling_parameters(shape) * (2.0 if hardware.precision() == "bf16" else 4.0)
    terms = {
        "decode_once": steps,
        "decode_layers": steps * shape.n_layers,
        "decode_weights": steps * weight_bytes / hardware.bandwidth_bytes_per_second,
        "decode_rows": steps * rows,
    }
    if hardware.kind == "gpu":
        return terms
    # Beyond one row the products grow with the rows: a forward pass of one token each.
    compute = forward_terms(hardware, shape, steps * rows)
    products = ("products", "head_products", "softmax")
    return added(terms, {name: compute[name] for name in products if name in compute})
