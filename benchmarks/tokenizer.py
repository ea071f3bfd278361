"""Engines that learn a vocabulary: `python -m benchmarks.tokenizer FOLDER [--megabytes 20] [--vocab-size 16384]`.

Learns from the first documents of the Parquet files in FOLDER (column `text`) with rustbpe and with the trainer of
`tokenizers`, each in a process of its own, and measures bytes per token on other documents of the folder: the same for
both when they make the same merges.
"""

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer, train_tokenizer_json

ENGINES = ("rustbpe", "tokenizers")


def read(folder: Path, megabytes: float) -> tuple[list[str], list[str]]:
    """Texts to learn from, and as many bytes of others at most."""
    import polars as pl

    def texts() -> Iterator[str]:
        for file in sorted(folder.glob("*.parquet")):
            yield from pl.read_parquet(file, columns=["text"])["text"]

    parts: tuple[list[str], list[str]] = ([], [])
    sizes = [0.0, 0.0]
    for text in texts():
        part = 0 if sizes[0] < megabytes * 1e6 else 1
        if sizes[1] >= megabytes * 1e6:
            break
        parts[part].append(text)
        sizes[part] += len(text.encode())
    return parts


def train_with_tokenizers(texts: list[str], vocab_size: int) -> str:
    """The control: the same split pattern and size."""
    from tokenizers import Regex, pre_tokenizers
    from tokenizers import Tokenizer as TokenizerFile
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    file = TokenizerFile(BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    file.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"), level])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    size = vocab_size - len(SPECIAL_TOKENS)
    file.train_from_iterator(
        iter(texts), BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False, min_frequency=2)
    )
    file.add_special_tokens(list(SPECIAL_TOKENS))
    return file.to_str()


def measure(engine: str, folder: Path, megabytes: float, vocab_size: int) -> dict[str, Any]:
    """Seconds of training alone, peak memory of the process, bytes per token on other documents."""
    train, other = read(folder, megabytes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, cpu = time.perf_counter(), time.process_time()
    content = (train_tokenizer_json if engine == "rustbpe" else train_with_tokenizers)(train, vocab_size)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    tokenizer = Tokenizer.from_json(content)
    tokens = sum(map(len, tokenizer.encode_batch(other)))
    return {
        "engine": engine,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "added_peak_mb": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3),
        "bytes_per_token": round(sum(len(text.encode()) for text in other) / tokens, 5),
        "tokens": {tokenizer.decode_bytes([number]).hex() for number in range(tokenizer.ordinary_tokens)},
    }


def main() -> None:
    """Print one line of JSON per engine, and how many tokens they have in common."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megabytes", type=float, default=20.0)
    parser.add_argument("--vocab-size", type=int, default=16_384)
    options = parser.parse_args()
    found = []
    for engine in ENGINES:
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # a process each: peak memory is never given back
            found.append(pool.apply(measure, (engine, options.folder, options.megabytes, options.vocab_size)))
        print(json.dumps({key: value for key, value in found[-1].items() if key != "tokens"}), flush=True)
    print(json.dumps({"tokens_in_common": len(found[0]["tokens"] & found[1]["tokens"])}))


if __name__ == "__main__":
    main()
