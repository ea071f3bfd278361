"""Conversation rows of a training stage: packed, masked, written once, reused after a kill.

The folder is ctx.resume/rows: train_*.bin with masks, manifest.json (see model/batches.py), conversations.parquet (what
was rendered, with its origin) and report.json. It appears by one rename, so a folder that exists is complete.
"""

import bisect
import json
import shutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.batches import RowFolder, read_manifest, write_rows
from model.packing import best_fit, fill_rows
from tasks._context import StageContext
from tasks._errors import StageError
from tasks._files import write_json
from tasks.conversations.build import PartReport, Rendered, Sources, build
from tasks.conversations.decontamination import index_of
from tasks.conversations.mixture import Mixture

if TYPE_CHECKING:
    from model.tokenizer import Tokenizer

LONG_IS_ONE_ROW_IN = 4
"""A conversation longer than this part of a row counts as long when rows are packed."""


def prepare_rows(
    ctx: StageContext, mixture: Mixture, tokenizer: "Tokenizer", all_tokens: bool, pretraining_share: float = 0.0
) -> Path:
    """The row folder of a stage, built unless a complete one is there; its counts go into the stage's report.

    `all_tokens` supervises every token but padding; otherwise only what the assistant must produce. With
    `pretraining_share` > 0 that share of the rows is drawn from artifacts/shards. StageError for rows of another
    tokenizer, for a mixture that cannot be made, or when no row results.
    """
    folder = ctx.resume / "rows"
    if not folder.exists():
        shards = read_manifest(ctx.input("artifacts/shards"))
        if shards["tokenizer_sha256"] != tokenizer.sha256:
            raise StageError(
                f"artifacts/shards was packed with tokenizer {shards['tokenizer_sha256'][:12]}, artifacts/tokenizer is "
                f"{tokenizer.sha256[:12]}; next: `dvc repro shards`"
            )
        unfinished = ctx.resume / "rows.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _build_into(unfinished, ctx, mixture, tokenizer, shards, all_tokens, pretraining_share)
        unfinished.rename(folder)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    ctx.report(**report["totals"])
    for name, part in report["parts"].items():
        lost = f", dropped {part['dropped']}" if part["dropped"] else ""
        if left_out := part.get("exchanges_left_out"):  # rows of an earlier version do not say
            lost += f", left out {left_out:,} exchanges longer than a row"
        if contaminated := part.get("contaminated"):
            lost += f", left out {contaminated['conversations']:,} that contain benchmark items"
        ctx.note(f"{name}: {part['conversations']:,} conversations, {part['tokens']:,} tokens{lost}")
    return folder


def publish_conversations(folder: Path, out: Path) -> None:
    """Copy what later stages may read about the rows: conversations.parquet and mixture_report.json."""
    shutil.copyfile(folder / "conversations.parquet", out / "conversations.parquet")
    shutil.copyfile(folder / "report.json", out / "mixture_report.json")


def _build_into(
    folder: Path,
    ctx: StageContext,
    mixture: Mixture,
    tokenizer: "Tokenizer",
    shards: dict[str, Any],
    all_tokens: bool,
    pretraining_share: float,
) -> None:
    tokens_per_row, pad_id = int(shards["tokens_per_row"]), int(shards["pad_id"])
    sources = Sources(
        ctx.input("artifacts/corpus/documents"),
        ctx.input("artifacts/shards/documents.parquet"),
        lambda: ctx.input("data/chat"),
        cache(lambda: index_of(ctx.input("data/benchmarks"))),
    )
    rendered, reports = build(mixture, sources, tokenizer, tokens_per_row)
    if not rendered:
        raise StageError(
            "the mixture gives no conversation; next: raise conversation_tokens or the counts of its parts"
        )
    rows, mask = pack(rendered, tokens_per_row, pad_id, all_tokens, mixture.seed)
    conversation_rows = len(rows)
    if pretraining_share:
        text_rows = _pretraining_rows(ctx, conversation_rows, pretraining_share, mixture.seed)
        rows = np.concatenate([rows, text_rows])
        mask = np.concatenate([mask, (text_rows != pad_id).astype(np.uint8)])
    tokens = sum(len(piece.ids) for piece in rendered)
    totals = {
        "conversations": sum(report.conversations for report in reports.values()),
        "conversation_tokens": tokens,
        "conversations_split": sum(report.split_conversations for report in reports.values()),
        "exchanges_left_out": sum(report.exchanges_left_out for report in reports.values()),
        "conversations_dropped": sum(sum(report.dropped.values()) for report in reports.values()),
        "conversations_contaminated": sum(
            report.notes.get("contaminated", {}).get("conversations", 0) for report in reports.values()
        ),
        "rows": len(rows),
        "pretraining_rows": len(rows) - conversation_rows,
        "padding_share": round(1 - tokens / (conversation_rows * (tokens_per_row + 1)), 6),
        "supervised_share": round(float(mask[:, 1:].mean()), 6),
    }
    fields = ("vocab_size", "bos_id", "pad_id", "tokenizer_sha256")
    info = {name: shards[name] for name in fields} | {"statistics": {"tokens": tokens}}
    write_rows(folder, "train", rows, mask, info)
    _write_conversations(folder / "conversations.parquet", rendered)
    parts = {name: _part_as_json(report) for name, report in reports.items()}
    write_json(folder / "report.json", {"totals": totals, "parts": parts})


def pack(
    rendered: list[Rendered], tokens_per_row: int, pad_id: int, all_tokens: bool, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows [R, tokens_per_row + 1] of ids and their mask (uint8). No conversation is cut; every row has a supervised
    target; the kinds are mixed within rows, in an order drawn from `seed`."""
    room = tokens_per_row + 1
    plan = mixed_fit([len(piece.ids) for piece in rendered], room, seed)
    rows = fill_rows(plan, [piece.ids for piece in rendered], room, pad_id, np.int64)
    masks = [[1] * len(piece.ids) if all_tokens else piece.mask for piece in rendered]
    mask = fill_rows(plan, masks, room, 0, np.uint8)
    if not mask[:, 1:].any(axis=1).all():  # our own promise: build() drops pieces without a supervised token
        raise AssertionError("a row has no supervised token")
    return rows, mask


def mixed_fit(lengths: list[int], room: int, seed: int) -> list[list[int]]:
    """Which conversations share a row: long ones packed longest first, short ones added in random order, each to the
    fullest row that has room for it.

    Packing all of them longest first would fill whole rows with one kind (equal kinds have equal lengths), and small
    batches of such rows make the gradient noisy. Short conversations fill the gaps well in any order.
    """
    draw = np.random.Generator(np.random.Philox(seed))
    long = [number for number, length in enumerate(lengths) if length > room // LONG_IS_ONE_ROW_IN]
    short = [number for number, length in enumerate(lengths) if length <= room // LONG_IS_ONE_ROW_IN]
    rows = [[long[place] for place in places] for places in best_fit([lengths[n] for n in long], room)] if long else []
    rooms: list[tuple[int, int]] = sorted(
        (room - sum(lengths[n] for n in row), number) for number, row in enumerate(rows)
    )
    for place in draw.permutation(len(short)):
        number = short[int(place)]
        index = bisect.bisect_left(rooms, (lengths[number], -1))
        left, row = rooms.pop(index) if index < len(rooms) else (room, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(number)
        bisect.insort(rooms, (left - lengths[number], row))
    return [[int(number) for number in draw.permutation(numbers)] for numbers in rows]


def _pretraining_rows(ctx: StageContext, conversation_rows: int, share: float, seed: int) -> np.ndarray:
    """Distinct rows of artifacts/shards so that they make up `share` of all rows, as far as there are enough."""
    source = RowFolder(ctx.input("artifacts/shards"), "train")
    wanted = min(round(conversation_rows * share / (1 - share)), source.rows)
    chosen = np.random.Generator(np.random.Philox(seed)).choice(source.rows, wanted, replace=False)
    batch = source.batch(np.sort(chosen))
    return np.concatenate([batch.ids_BT.numpy(), batch.targets_BT.numpy()[:, -1:]], axis=1)


def _write_conversations(path: Path, rendered: list[Rendered]) -> None:
    import polars as pl

    pl.DataFrame(
        {
            "kind": [piece.conversation.kind for piece in rendered],
            "source": [piece.conversation.source for piece in rendered],
            "tokens": [len(piece.ids) for piece in rendered],
            "messages": [json.dumps(piece.conversation.messages, ensure_ascii=False) for piece in rendered],
        },
        schema={"kind": pl.String, "source": pl.String, "tokens": pl.Int64, "messages": pl.String},
    ).write_parquet(path, compression="zstd")


def _part_as_json(report: PartReport) -> dict[str, Any]:
    return {
        "conversations": report.conversations,
        "tokens": report.tokens,
        "supervised_tokens": report.supervised_tokens,
        "split_conversations": report.split_conversations,
        "exchanges_left_out": report.exchanges_left_out,
        "dropped": dict(sorted(report.dropped.items())),
        "dropped_samples": report.dropped_samples,
        **report.notes,
    }
