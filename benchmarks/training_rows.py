"""Rows and tokenizer for training benchmarks, made from a folder of text by the pipeline's own stages.

Reads    a folder of Parquet files with columns id, text, domain (benchmarks/corpus_params.yaml says how it is cleaned)
Writes   rows/{train,val}_*.bin, manifest.json, tokenizer.json; rows that are there already are kept
"""

import json
import shutil
import sys
from pathlib import Path

import polars as pl

from benchmarks.corpus import prepare as prepare_corpus
from benchmarks.corpus import run_stage as run_corpus
from model.tokenizer import train_tokenizer_json
from tasks._context import EventLog, StageContext
from tasks._runtime import Runtime
from tasks.shards.stage import Params, run
from tasks.stages import Stage

TRAINING_CHARACTERS = 30_000_000
LONGEST_TRAINING_TEXT = 10_000


def prepare_rows(text: Path, rows: Path, vocab_size: int, tokens_per_row: int) -> None:
    """Clean and deduplicate `text`, learn a vocabulary, pack rows; ValueError if `rows` holds rows of another kind."""
    if (rows / "manifest.json").exists():
        manifest = json.loads((rows / "manifest.json").read_text(encoding="utf-8"))
        found = (manifest["vocab_size"], manifest["tokens_per_row"])
        if found != (vocab_size, tokens_per_row):
            raise ValueError(f"{rows} holds rows of (vocabulary, tokens) {found}; next: name another folder")
        print(f"{rows} is there", file=sys.stderr)
        return
    root = rows.with_name(rows.name + ".work")
    shutil.rmtree(root, ignore_errors=True)
    (root / "params.json").parent.mkdir(parents=True)
    (root / "params.json").write_text(json.dumps(prepare_corpus(root, text, None)), encoding="utf-8")
    run_corpus(root)
    (root / "artifacts").mkdir()
    (root / "work/corpus/out").rename(root / "artifacts/corpus")
    documents = pl.read_parquet(sorted((root / "artifacts/corpus/documents").glob("*.parquet")), columns=["text"])
    texts = documents["text"].sample(fraction=1.0, shuffle=True, seed=0).str.slice(0, LONGEST_TRAINING_TEXT)
    chosen = texts.filter(texts.str.len_chars().cast(pl.Int64).cum_sum() <= TRAINING_CHARACTERS)
    tokenizer = root / "artifacts/tokenizer/tokenizer.json"
    tokenizer.parent.mkdir()
    tokenizer.write_text(train_tokenizer_json(chosen, vocab_size), encoding="utf-8")
    out, resume = root / "work/shards/out", root / "work/shards/resume"
    out.mkdir(parents=True)
    params = Params(tokens_per_row=tokens_per_row)
    run(StageContext(Stage.SHARDS, params, Runtime(device="cpu"), root, out, resume, EventLog(resume / "events.jsonl")))
    shutil.copyfile(tokenizer, out / "tokenizer.json")
    out.rename(rows)
    shutil.rmtree(root)
