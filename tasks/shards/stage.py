"""shards: tokenize the corpus and pack it into fixed-length rows of ids.

Reads    artifacts/corpus/documents/*.parquet (id, text, and where the corpus says so domain, cluster_id, repeats),
         artifacts/tokenizer/tokenizer.json
Writes   artifacts/shards/{train,val}_NNNNN.bin, manifest.json, {train,val}_NNNNN.pieces.npy (packing.piece_type: which
         tokens of which document lie where), documents.parquet (id, split, tokens of one copy, repeats, domain)
Promise  every document is in exactly one split, with all of its near-duplicates, and stays there when others come; all
         of its tokens are in the rows, in order within a piece, as often as `repeats` says (once where the corpus does
         not say, and for validation); no row holds two copies of a document; every row and every copy starts with BOS;
         padding is at most params.max_padding_fraction where enough documents are at hand; the result depends on the
         documents and parameters alone: not on the corpus's files, workers, cluster or interruptions
Limits   a document longer than a row continues in other rows, each beginning with BOS, without sight of its beginning;
         some fifty bytes and the id of every document are held in memory, texts a few megabytes and ids a window at a
         time; every pass over the copies may leave one row unfilled; when validation text outgrows
         params.max_val_bytes, or a cluster gets another name, documents change sides (splitting.choose_split)
"""

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from model.tokenizer import Tokenizer
from pipeline_math.packing_io import rows_needed
from tasks import _units
from tasks._context import StageContext
from tasks._errors import StageError
from tasks._executor import InlineExecutor, in_order, open_executor
from tasks._files import write_text
from tasks._params import StageParams
from tasks._units import Unit, code_version, compute_all, digest_of, unit_key
from tasks.shards import encoding
from tasks.shards.documents import DocumentTable, read_table
from tasks.shards.splitting import choose_split, hash_order
from tasks.shards.windows import Window, row_files
from tasks.shards.writing import COUNTS, SPLITS, Layout, RowFile, write_row_file

PADDING_TOKEN = "<|output_end|>"  # never part of pretraining text


class Params(StageParams):
    """Section `shards` of params.yaml."""

    tokens_per_row: Annotated[int, Field(ge=8)] = 2048
    """Tokens a model sees at once; a stored row has one more, the last target."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Share of the documents held out for validation, chosen by hash of seed and cluster, or id."""
    max_val_bytes: Annotated[int, Field(gt=0)] = 20_000_000
    """UTF-8 bytes of validation text at most; val_fraction is halved until it fits."""
    max_padding_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.005
    """Share of padding above which documents that fit into a row may be cut to fill holes."""
    window_tokens: Annotated[int, Field(gt=0)] = 2**25
    """Documents of about this many tokens are packed together; bounds memory, not quality."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Chooses the split and the order of documents and rows."""


class PackedSplit(NamedTuple):
    """What is known of a split once its files are written; tokens_in: of all copies, BOS not counted."""

    files: list[dict[str, Any]]
    rows: int
    windows: int
    tokens_in: int
    statistics: dict[str, Any]


def run(ctx: StageContext) -> None:
    """Encode every file, split, pack train and val, write manifest and table of documents."""
    params = ctx.params
    assert isinstance(params, Params)
    path = ctx.input("artifacts/tokenizer/tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(path)
    except ValueError as error:
        raise StageError(str(error)) from None
    files = _corpus_files(ctx.input("artifacts/corpus/documents"))
    with _executor(ctx, len(files)) as executor:
        units, is_new = _encode(ctx, executor, files, path, tokenizer.sha256)
        table = read_table(units)
        split = _split(ctx, table, params)
        packed = _pack(ctx, executor, table, split, units, tokenizer)
    table.write(ctx.out / "documents.parquet", split)
    _write_manifest(ctx.out, packed, tokenizer, params)
    _units.keep_only(ctx.cache, units)
    _tell(ctx, table, packed, np.array(is_new))


def _corpus_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise StageError(f"shards: {folder} holds no *.parquet; allowed: at least one; next: build the corpus again")
    return files


@contextmanager
def _executor(ctx: StageContext, files: int) -> Iterator[Executor]:
    """A corpus of a single file is encoded by threads of this process: others would start longer than they work."""
    if files == 1:
        yield InlineExecutor()
        return
    with open_executor(ctx) as executor:
        yield executor


def _encode(
    ctx: StageContext, executor: Executor, files: list[Path], tokenizer: Path, sha256: str
) -> tuple[list[Path], list[bool]]:
    """The units of all files, and which of them this run computes."""
    version = code_version(encoding.CODE, encoding.LIBRARIES)
    threads = max(1, ctx.cores // len(files))
    folders = [ctx.cache / "encode" / unit_key(version, sha256, digest_of(file)) for file in files]
    is_new = [not folder.exists() for folder in folders]
    units = (Unit(folder, (str(file), str(tokenizer), threads)) for folder, file in zip(folders, files, strict=True))
    return list(compute_all(ctx, executor, encoding.encode, units, len(files), "encode")), is_new


def _split(ctx: StageContext, table: DocumentTable, params: Params) -> NDArray[np.bool_]:
    """True for validation documents, which are held out once, however often they were to be repeated."""
    is_val, fraction = choose_split(table, params.val_fraction, params.max_val_bytes, params.seed)
    for name, documents in (("train", ~is_val), ("val", is_val)):
        if table.tokens[documents].any():
            continue
        limit = f", shards.max_val_bytes={params.max_val_bytes}" if fraction < params.val_fraction else ""
        raise StageError(
            f"shards: none of {len(table)} documents falls into split '{name}'; allowed: at least one; "
            f"next: change shards.val_fraction={params.val_fraction}{limit} (or shards.seed), or add text"
        )
    if fraction < params.val_fraction:
        ctx.note(f"validation text is limited by max_val_bytes={params.max_val_bytes}: val_fraction is {fraction:.3g}")
    without = np.setdiff1d(table.domain[~is_val], table.domain[is_val])
    if len(without):
        names = ", ".join(table.domains[code] for code in without)
        ctx.note(f"no validation document in domain(s) {names}; their loss cannot be watched")
    table.repeats[is_val] = 1
    return is_val


def _pack(
    ctx: StageContext,
    executor: Executor,
    table: DocumentTable,
    is_val: NDArray[np.bool_],
    units: list[Path],
    tokenizer: Tokenizer,
) -> dict[str, PackedSplit]:
    params = ctx.params
    assert isinstance(params, Params)
    dtype = encoding.id_type(tokenizer.vocab_size).str
    pad_id = tokenizer.special_id(PADDING_TOKEN)
    layout = Layout(params.tokens_per_row, params.max_padding_fraction, tokenizer.bos_id, pad_id, dtype, params.seed)
    order = hash_order(table, params.seed)
    folders = [str(unit) for unit in units]
    windows: Counter[str] = Counter()

    def jobs() -> Iterator[tuple[str, str, int, list[str], list[Window], Layout]]:
        for split, chosen in zip(SPLITS, (~is_val, is_val), strict=True):
            for number, own in enumerate(row_files(table, order[chosen[order]], params.window_tokens)):
                windows[split] += len(own)
                yield str(ctx.out), split, number, folders, own, layout

    found: dict[str, list[RowFile]] = {split: [] for split in SPLITS}
    total = float(((table.tokens + np.int64(1)) * table.repeats).sum())
    with ctx.progress("shards: pack", total, "tokens") as bar:
        for file in in_order(ctx, executor, write_row_file, jobs(), "packing rows"):
            found[file.entry["name"].rsplit("_", 1)[0]].append(file)
            bar.update(file.counts["tokens"])
    return {
        split: _summary(found[split], windows[split], table.statistics(np.flatnonzero(chosen)))
        for split, chosen in zip(SPLITS, (~is_val, is_val), strict=True)
    }


def _summary(files: list[RowFile], windows: int, statistics: dict[str, Any]) -> PackedSplit:
    counts = {name: sum(file.counts[name] for file in files) for name in COUNTS}
    tokens_in = sum(domain["tokens"] for domain in statistics["domains"].values())  # BOS not counted
    # Tokens in = tokens packed: every copy's tokens, one BOS each, one more per further piece.
    expected = tokens_in + statistics["copies"] + counts["continuation_bos"]
    assert counts["tokens"] == expected, "packing lost or repeated tokens"
    entries = [file.entry for file in files]
    rows = sum(entry["rows"] for entry in entries)
    return PackedSplit(entries, rows, windows, tokens_in, {**counts, **statistics})


def _write_manifest(folder: Path, packed: dict[str, PackedSplit], tokenizer: Tokenizer, params: Params) -> None:
    manifest: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "pad_id": tokenizer.special_id(PADDING_TOKEN),
        "tokenizer_sha256": tokenizer.sha256,
        "dropped_tokens": 0,
        "tokens_per_row": params.tokens_per_row,
        "dtype": encoding.id_type(tokenizer.vocab_size).name,
        "masked": False,
    }
    for split, own in packed.items():
        manifest[split] = {"files": own.files, "rows": own.rows, **own.statistics}
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")


def _tell(ctx: StageContext, table: DocumentTable, packed: dict[str, PackedSplit], is_new: NDArray[np.bool_]) -> None:
    params = ctx.params
    assert isinstance(params, Params)
    for split, own in packed.items():
        # Best case: no padding at all. Worst: the padding allowed, and one row per window that nothing is left to fill.
        fewest = rows_needed(own.statistics["tokens"], params.tokens_per_row)
        ctx.predict(f"{split}_rows", fewest, fewest, fewest / (1 - params.max_padding_fraction) + own.windows)
        ctx.measure(f"{split}_rows", own.rows)
        figures = {f"{split}_{name}": value for name, value in own.statistics.items() if name != "domains"}
        padding = own.statistics["padding"] / (own.rows * (params.tokens_per_row + 1))
        ctx.report(**figures, **{f"{split}_rows": own.rows, f"{split}_padding_fraction": padding})
    tokens = {split: own.tokens_in for split, own in packed.items()}
    # Encoded is one copy of each document, unless an earlier run has left it in the cache; packed are all copies.
    ctx.count(
        kept_bytes=int(table.bytes.sum(dtype=np.int64)),
        new_bytes=int(table.bytes[is_new[table.file]].sum(dtype=np.int64)),
        tokens=sum(tokens.values()),
    )
    ctx.measure("train_tokens", tokens["train"])
    longest = int(table.tokens.max())
    if longest < params.tokens_per_row:
        ctx.note(
            f"tokens_per_row={params.tokens_per_row} is longer than every document (longest: {longest} tokens); "
            f"no context reaches further than that"
        )
