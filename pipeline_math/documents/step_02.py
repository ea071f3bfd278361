"""Numbers of 02_tokenizer_cost.md."""

import math

from pipeline_math.documents import examples
from pipeline_math.documents.examples import chosen, published, recorded_shape
from pipeline_math.documents.number import Number, compute, constant, over
from pipeline_math.documents.recorded import amount, ledger_values, measured
from pipeline_math.documents.table import Cell, Quoted, Shown, Table, levers
from pipeline_math.model_flops_vram import ModelShape, shape_of_depth, shape_train_flops_per_token
from pipeline_math.tokenizer_cost import (
    TRAINING_ANCHORS,
    best_vocabulary,
    bits_per_byte_from_nats,
    break_even_vocabulary,
    compression_gain,
    encode_seconds,
    fewer_tokens_share,
    head_train_flops_per_token,
    incremental_training_visits,
    naive_training_visits,
    tokens_of_bytes,
    training_memory_bytes,
)

DEPTHS = (4, 8, 12, 20, 26)
"""Models whose vocabulary is doubled in the example."""
MERGES = 32_000
"""Chosen for the example."""
UNIQUE_WORD_SYMBOLS = 20e6
"""Chosen for the example: summed length of two million distinct words."""
FINAL_SYMBOLS = 5e6
"""Chosen for the example: the same words after all merges."""
GAIN_PER_DOUBLING = 0.05
"""Chosen for the example, near the published gain from 32,768 to 65,536."""
TEXT_BYTES = 10e9
"""Chosen for the example: text to encode."""


def values() -> dict[str, Number | Table]:
    """Everything the template names."""
    return _training() | _compression() | _vocabulary() | _own() | {"targets": _targets()} | ledger_values("tokenizer")


def gain_that_pays(extra_flops: float, train_flops_per_token: float) -> float:
    """Gain in bytes per token at which `larger_vocabulary_pays` turns: exp(delta F / F) - 1."""
    return math.expm1(extra_flops / train_flops_per_token)


def _chosen(name: str, unit: str) -> Number:
    return constant(f"documents.step_02.{name}", unit)


def _training() -> dict[str, Number | Table]:
    symbols, final = _chosen("UNIQUE_WORD_SYMBOLS", ""), _chosen("FINAL_SYMBOLS", "")
    lines: list[list[Cell]] = []
    for index, anchor in enumerate(TRAINING_ANCHORS):
        path = f"tokenizer_cost.TRAINING_ANCHORS.{index}"
        lines.append(
            [
                Quoted(anchor.machine),
                constant(f"{path}.characters", "characters"),
                Shown(constant(f"{path}.vocab_size", ""), ","),
                constant(f"{path}.seconds", "s"),
                constant(f"{path}.characters_per_second", "characters/s"),
                Quoted(anchor.source),
            ]
        )
    header = ("machine", "text", "vocabulary", "time", "rate", "source")
    return {
        "anchors": Table(header, lines, "lrrrrl"),
        "merges": _chosen("MERGES", "merges"),
        "symbols": _chosen("UNIQUE_WORD_SYMBOLS", "symbols"),
        "naive": compute(naive_training_visits, _chosen("MERGES", ""), symbols, unit="visits"),
        "incremental": compute(incremental_training_visits, symbols, final, unit="visits"),
        "index_bytes": compute(training_memory_bytes, symbols, unit="B"),
    }


def _compression() -> dict[str, Number | Table]:
    nats, gpt2, own = (
        published("GPT2_NATS_PER_TOKEN"),
        published("GPT2_BYTES_PER_TOKEN"),
        published("OWN_65K_BYTES_PER_TOKEN"),
    )
    return {
        "gpt2_nats": nats,
        "gpt2_bytes_per_token": gpt2,
        "gpt2_bpb": compute(bits_per_byte_from_nats, nats, gpt2, unit="bits/byte"),
        "own_65k": own,
        "published_gain": compute(compression_gain, own, gpt2, unit="share"),
        "published_fewer": compute(fewer_tokens_share, own, gpt2, unit="share"),
    }


def _double(shape: ModelShape) -> tuple[Number, Number, Number]:
    flops = compute(shape_train_flops_per_token, shape, unit="FLOP/token")
    extra = compute(head_train_flops_per_token, shape.vocab_size, shape.d_model, unit="FLOP/token")
    return flops, extra, over(extra, flops, "share")


def _vocabulary() -> dict[str, Number | Table]:
    gain = _chosen("GAIN_PER_DOUBLING", "share")
    lines: list[list[Cell]] = []
    for depth in DEPTHS:
        shape = shape_of_depth(depth, examples.VOCABULARY, examples.ROW)
        flops, extra, share = _double(shape)
        body = shape_train_flops_per_token(shape) - head_train_flops_per_token(shape.vocab_size, shape.d_model)
        lines.append(
            [
                f"d{depth}",
                flops,
                extra,
                share,
                compute(gain_that_pays, extra, flops, unit="share"),
                Shown(compute(break_even_vocabulary, shape.vocab_size, shape.d_model, flops, gain, unit=""), "plain"),
                Shown(compute(best_vocabulary, body, shape.d_model, gain, unit=""), "plain"),
            ]
        )
    header = ("model", "F", "6 V d added", "share of F", "gain that pays", "break-even V", "best V by the rule")
    return {
        "vocabulary": chosen("VOCABULARY", ""),
        "large_vocabulary": chosen("LARGE_VOCABULARY", ""),
        "gain_per_doubling": gain,
        "doubling": Table(header, lines),
    }


def _own() -> dict[str, Number | Table]:
    shape = recorded_shape("pretrain")
    flops, extra, share = _double(shape)
    ratio = measured("tokenizer", "bytes_per_token")
    text = amount("tokenizer", "train_bytes")
    seconds = measured("tokenizer", "seconds")
    return {
        "own_bytes_per_token": ratio,
        "own_text": text,
        "own_merges": amount("tokenizer", "merges"),
        "own_rate": over(text, seconds, "B/s"),
        "own_tokens": compute(tokens_of_bytes, measured("corpus", "kept_bytes"), ratio, unit="tokens"),
        "own_kept": measured("corpus", "kept_bytes"),
        "own_flops": flops,
        "own_head_share": share,
        "own_gain_that_pays": compute(gain_that_pays, extra, flops, unit="share"),
        "constant_text": constant("constants.CONSTANTS.cpu.training_text", "s/B"),
        "constant_merge": constant("constants.CONSTANTS.cpu.merges", "s"),
        "constant_encoding": constant("constants.CONSTANTS.cpu.encoding", "s/B"),
    }


def _targets() -> Table:
    def flops(shape: ModelShape) -> Number:
        return compute(shape_train_flops_per_token, shape, unit="FLOP/token")

    rows = []
    for depth in (4, 12, 20):
        small, large = (
            flops(shape_of_depth(depth, size, examples.ROW))
            for size in (examples.VOCABULARY, examples.LARGE_VOCABULARY)
        )
        rows.append((f"double the vocabulary of a d{depth} (F)", "compute", small, large))
    own = recorded_shape("pretrain")
    half = ModelShape(**(vars(own) | {"vocab_size": own.vocab_size // 2}))
    rate = 1.0 / constant("constants.CONSTANTS.cpu.encoding", "s/B").value
    one, two = (compute(encode_seconds, _chosen("TEXT_BYTES", "B"), rate, cores, unit="s") for cores in (1, 2))
    symbols, final = _chosen("UNIQUE_WORD_SYMBOLS", ""), _chosen("FINAL_SYMBOLS", "")
    scanning = compute(naive_training_visits, _chosen("MERGES", ""), symbols, unit="visits")
    indexed = compute(incremental_training_visits, symbols, final, unit="visits")
    gpt2, better = published("GPT2_BYTES_PER_TOKEN"), published("OWN_65K_BYTES_PER_TOKEN")
    return levers(
        (
            *rows,
            ("halve the vocabulary of the example run (F)", "compute", flops(own), flops(half)),
            ("train the tokenizer on the own text (bytes per token)", "statistics", gpt2, better),
            ("encode on two cores", "compute", one, two),
            ("index of pairs instead of scanning per merge", "compute", scanning, indexed),
        )
    )
