"""Numbers of 03_packing_io_cost.md."""

from pipeline_math.documents import examples
from pipeline_math.documents.examples import chosen, published, recorded_shape
from pipeline_math.documents.number import Number, compute, constant, over, times
from pipeline_math.documents.recorded import amount, ledger_values, measured
from pipeline_math.documents.table import Cell, Shown, Table, levers
from pipeline_math.packing_io import (
    cut_probability,
    effective_unique_tokens,
    id_bytes,
    loader_bytes_per_second,
    own_row_padding_share,
    row_bytes,
    rows_needed,
    shard_bytes,
    split_file_bytes,
    text_bytes_per_second,
)

ROW_LENGTHS = (512, 1024, 2048, 4096)
"""Tokens per row compared in the example."""
CONVERSATION_TOKENS = (60, 120, 180, 300, 600)
"""Chosen for the example: lengths of five conversations."""
DOCUMENT_TOKENS = 625
"""Chosen for the example: a web page of average length."""
WIDE_VOCABULARY = 131072
"""Chosen for the example: ids that no longer fit two bytes."""


def values() -> dict[str, Number | Table]:
    """Everything the template names."""
    return _public() | _cutting() | _own() | {"targets": _targets()} | ledger_values("shards")


def example_row_length(index: int) -> int:
    """An entry of ROW_LENGTHS."""
    return ROW_LENGTHS[index]


def _public() -> dict[str, Number | Table]:
    tokens, vocabulary = published("D12_TRAIN_TOKENS"), chosen("VOCABULARY", "")
    speed = over(published("D12_BATCH_TOKENS"), published("D12_STEP_SECONDS"), "tokens/s")
    eaten = compute(loader_bytes_per_second, speed, vocabulary, unit="B/s")
    return {
        "d12_tokens": tokens,
        "d12_shards": compute(shard_bytes, tokens, vocabulary, unit="B"),
        "d12_speed": speed,
        "d12_eaten": eaten,
        "margin": constant("packing_io.LOADER_MARGIN", ""),
        "d12_wanted": times(eaten, constant("packing_io.LOADER_MARGIN", ""), "B/s"),
        "d12_text": compute(text_bytes_per_second, speed, published("BYTES_PER_TOKEN_32K"), unit="B/s"),
        "bytes_per_token": published("BYTES_PER_TOKEN_32K"),
        "upstream_loader": published("LOADER_TOKENS_PER_CORE_SECOND"),
        "largest_two_byte": constant("packing_io.UINT16_VOCABULARY", ""),
    }


def _cutting() -> dict[str, Number | Table]:
    length = constant("documents.step_03.DOCUMENT_TOKENS", "tokens")
    dropped = published("CROP_DROPPED_SHARE")
    lines: list[list[Cell]] = []
    for index in range(len(ROW_LENGTHS)):
        row = compute(example_row_length, index, unit="tokens")
        lines.append(
            [
                row,
                compute(cut_probability, length, row, unit="share"),
                compute(row_bytes, row, examples.VOCABULARY, unit="B"),
                Shown(compute(rows_needed, published("D12_TRAIN_TOKENS"), row, unit=""), ","),
            ]
        )
    header = ("row", "chance to cut the document", "bytes of a row", "rows of the d12 corpus")
    return {
        "document_tokens": length,
        "rows": Table(header, lines, "rrrr"),
        "crop_dropped": dropped,
        "crop_left": compute(effective_unique_tokens, published("D12_TRAIN_TOKENS"), dropped, unit="tokens"),
        "alone_padding": compute(own_row_padding_share, CONVERSATION_TOKENS, 2048, unit="share"),
        "conversation_row": compute(example_row_length, 2, unit="tokens"),
    }


def _own() -> dict[str, Number | Table]:
    shape = recorded_shape("pretrain")
    speed = measured("pretrain", "tokens_per_second")
    eaten = compute(loader_bytes_per_second, speed, shape.vocab_size, unit="B/s")
    written = measured("shards", "train_tokens")
    rows = over(written, measured("shards", "train_rows"), "tokens/row")
    seconds = measured("shards", "seconds")
    return {
        "own_kept": amount("shards", "kept_bytes"),
        "own_tokens": written,
        "own_rows": measured("shards", "train_rows"),
        "own_per_row": rows,
        "own_row_bytes": compute(row_bytes, shape.tokens_per_row, shape.vocab_size, unit="B"),
        "own_files": compute(
            split_file_bytes, measured("shards", "train_rows"), shape.tokens_per_row, shape.vocab_size, unit="B"
        ),
        "own_rate": over(amount("shards", "kept_bytes"), seconds, "B/s"),
        "own_speed": speed,
        "own_eaten": eaten,
        "own_wanted": times(eaten, constant("packing_io.LOADER_MARGIN", ""), "B/s"),
        "constant_once": constant("constants.CONSTANTS.cpu.shards_once", "s"),
        "constant_encoding": constant("constants.CONSTANTS.cpu.encoding", "s/B"),
        "constant_packing": constant("constants.CONSTANTS.cpu.packing", "s/B"),
    }


def _targets() -> Table:
    tokens = published("D12_TRAIN_TOKENS")
    narrow, wide = (compute(shard_bytes, tokens, size, unit="B") for size in (examples.VOCABULARY, WIDE_VOCABULARY))
    speed = over(published("D12_BATCH_TOKENS"), published("D12_STEP_SECONDS"), "tokens/s")
    text = compute(text_bytes_per_second, speed, published("BYTES_PER_TOKEN_32K"), unit="B/s")
    ids = compute(loader_bytes_per_second, speed, examples.VOCABULARY, unit="B/s")
    left = compute(effective_unique_tokens, tokens, published("CROP_DROPPED_SHARE"), unit="tokens")
    everything = compute(effective_unique_tokens, tokens, 0.0, unit="tokens")
    short, long = (
        compute(cut_probability, constant("documents.step_03.DOCUMENT_TOKENS", "tokens"), row, unit="share")
        for row in ROW_LENGTHS[1:3]
    )
    masked, plain = (
        compute(split_file_bytes, 1_000_000, examples.ROW, examples.VOCABULARY, masked=mask, unit="B")
        for mask in (True, False)
    )
    two, four = (compute(id_bytes, size, unit="B") for size in (examples.VOCABULARY, WIDE_VOCABULARY))
    return levers(
        (
            ("pack best-fit-decreasing instead of cropping (distinct tokens)", "io", left, everything),
            ("tokenize before training, not during (bytes read per second)", "io", text, ids),
            ("stay below the ids that fit two bytes (corpus on disk)", "io", wide, narrow),
            ("the same for one id", "bandwidth", four, two),
            ("double the row (documents cut)", "statistics", short, long),
            ("store no mask where every token has a target (a million rows)", "io", masked, plain),
        )
    )
