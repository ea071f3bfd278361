"""The corpus stage on real text: time, memory, recall, and the same work done by datatrove.

    python -m benchmarks.corpus whole --text DIR --benchmarks DIR --out DIR
        all filters, near duplicates and decontamination; then one threshold changed; then nothing changed
    python -m benchmarks.corpus copies --text DIR --benchmarks DIR --out DIR --copies 10
        the same on the text with noise, 1 and 10 times: how time and memory grow
    python -m benchmarks.corpus datatrove --text DIR --python ENV/bin/python --out DIR
        the four quality filters and the signatures on the same 500 documents (datatrove in its own environment)
    python -m benchmarks.corpus duplicates --text DIR --out DIR
        exact copies found, and recall and precision of near duplicates against brute force
    python -m benchmarks.corpus markdown --out DIR
        what the commands above found, as a document

DIR of --text holds Parquet files with columns id, text, domain; --benchmarks holds JSON Lines files. Two quiet cores.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parent.parent
PARAMS = Path(__file__).with_name("corpus_params.yaml")
SAMPLED_SECONDS = 0.05
DOCUMENTS = 500
OTHERS = 2000
NOISE = 0.15
"""Share of words replaced in a copy: five-word shingles of two copies then agree to about 0.85^10, no duplicates."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["whole", "copies", "datatrove", "duplicates", "stage", "markdown"])
    parser.add_argument("--text", type=Path)
    parser.add_argument("--benchmarks", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--only-write", action="store_true", help="copies: write the text, to be timed later")
    parser.add_argument("--python", type=Path)
    parser.add_argument("--note", default="", help="markdown: what else was going on")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.what == "stage":
        run_stage(arguments.out)
        return
    if arguments.what == "markdown":
        from benchmarks.corpus_markdown import markdown

        print(markdown(arguments.out, arguments.note))
        return
    command = {"whole": whole, "copies": copies, "datatrove": datatrove, "duplicates": duplicates}[arguments.what]
    result = command(arguments)
    (arguments.out / f"{arguments.what}.json").write_text(json.dumps(result, indent=2))
    print(json.dumps(result, indent=2))


def run_stage(root: Path) -> None:
    """The stage in this process, as the runner would call it; root/params.json holds its parameters."""
    from tasks._context import EventLog, StageContext
    from tasks._files import remove
    from tasks._params import validate
    from tasks._runtime import Runtime
    from tasks.corpus.stage import Params, run
    from tasks.stages import Stage

    out, resume = root / "work/corpus/out", root / "work/corpus/resume"
    remove(out)
    out.mkdir(parents=True)
    resume.mkdir(parents=True, exist_ok=True)
    params = validate(Params, json.loads((root / "params.json").read_text()), "params.json")
    context = StageContext(Stage.CORPUS, params, Runtime(), root, out, resume, EventLog(resume / "events.jsonl"))
    run(context)


def prepare(root: Path, text: Path, benchmarks: Path | None) -> dict[str, Any]:
    """A scratch folder with the data where the stage looks for it; returns the parameters."""
    for name in ("text", "benchmarks", "quality", "earlier"):
        (root / "data" / name).mkdir(parents=True, exist_ok=True)
    for folder, target in ((text, "text"), (benchmarks, "benchmarks")):
        for path in sorted(folder.glob("*")) if folder else []:
            if path.suffix in (".parquet", ".gz", ".jsonl") and not (root / "data" / target / path.name).exists():
                shutil.copyfile(path, root / "data" / target / path.name)
    return yaml.safe_load(PARAMS.read_text(encoding="utf-8"))


def timed(root: Path, params: dict[str, Any]) -> dict[str, Any]:
    """One run of the stage in a fresh interpreter: seconds, and the most memory all its processes held together."""
    (root / "params.json").write_text(json.dumps(params))
    command = [sys.executable, "-m", "benchmarks.corpus", "stage", "--out", str(root)]
    started = time.perf_counter()
    child = subprocess.Popen(command, cwd=ROOT)
    peak = {"rss": 0, "pss": 0}
    watcher = threading.Thread(target=_watch, args=(child.pid, peak), daemon=True)
    watcher.start()
    code = child.wait()
    seconds = time.perf_counter() - started
    watcher.join()
    if code:
        raise SystemExit(f"the stage ended with {code}")
    report = json.loads((root / "work/corpus/out/report.json").read_text())
    return {
        "seconds": round(seconds, 2),
        "peak_rss_bytes": peak["rss"],
        "peak_pss_bytes": peak["pss"],
        "bytes": report["total"]["bytes"],
        "documents": report["total"]["documents"],
        "kept": report["total"]["kept"],
        "dropped": report["dropped_by_reason"],
    }


def _watch(pid: int, peak: dict[str, int]) -> None:
    """Sums over the process and its children; PSS counts a page that several share once."""
    while psutil.pid_exists(pid):
        rss = pss = 0
        try:
            process = psutil.Process(pid)
            for one in [process, *process.children(recursive=True)]:
                memory = one.memory_full_info()
                rss, pss = rss + memory.rss, pss + memory.pss
        except psutil.Error:
            pass
        peak["rss"], peak["pss"] = max(peak["rss"], rss), max(peak["pss"], pss)
        time.sleep(SAMPLED_SECONDS)


def whole(arguments: argparse.Namespace) -> dict[str, Any]:
    root = arguments.out / "whole"
    shutil.rmtree(root, ignore_errors=True)
    params = prepare(root, arguments.text, arguments.benchmarks)
    first = timed(root, params)
    params["quality"] = {**params["quality"], "min_words": params["quality"].get("min_words", 20) + 5}
    return {"everything": first, "one threshold changed": timed(root, params), "nothing changed": timed(root, params)}


def copies(arguments: argparse.Namespace) -> dict[str, Any]:
    """The text once and `copies` times, every copy with its own noise and ids."""
    results = {}
    for count in (1, arguments.copies):
        root = arguments.out / f"copies-{count}"
        shutil.rmtree(root / "work", ignore_errors=True)
        params = prepare(root, arguments.out / "none", arguments.benchmarks)
        params["guard"] = {"allow_idle": ["*"], "allow_drop": ["*"]}  # with noise, other rules find nothing
        for number in range(count):
            _noisy_copy(arguments.text, root / "data/text", number)
        if not arguments.only_write:
            results[f"{count} x"] = timed(root, params)
    if arguments.only_write:
        return {}
    one, many = results.values()
    return {
        **results,
        "text grows": round(many["bytes"] / one["bytes"], 3),
        "time grows": round(many["seconds"] / one["seconds"], 3),
        "rss grows": round(many["peak_rss_bytes"] / one["peak_rss_bytes"], 3),
    }


def _noisy_copy(text: Path, folder: Path, number: int) -> None:
    import polars as pl

    for path in sorted(text.glob("*.parquet")):
        target = folder / f"{number:02d}-{path.name}"
        if target.exists():
            continue
        frame = pl.read_parquet(path)
        source = random.Random(f"{number}:{path.name}")
        noisy = [_noisy(document, source) for document in frame["text"].to_list()]
        ids = [f"{name}/{number}" for name in frame["id"].to_list()]
        frame.with_columns(pl.Series("text", noisy), pl.Series("id", ids)).write_parquet(target)


def _noisy(document: str, source: random.Random) -> str:
    """The document with some words replaced by other words of its own, so that lengths and characters stay alike."""
    parts = document.split(" ")
    for _ in range(int(NOISE * len(parts))):
        parts[source.randrange(len(parts))] = parts[source.randrange(len(parts))]
    return " ".join(parts)


def datatrove(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both tools on one core, the same documents, signatures and filters alone; reading and writing is left out."""
    import polars as pl

    from tasks._words import hash_words
    from tasks.corpus.duplicates.minhash import signatures
    from tasks.corpus.quality.statistics import add_statistics

    paths = sorted(arguments.text.glob("*.parquet"))
    frame = pl.concat([pl.read_parquet(path, columns=["id", "text", "domain"]) for path in paths])
    frame = frame.sample(DOCUMENTS, seed=0, shuffle=True)
    size = int(frame["text"].str.len_bytes().sum())
    given = arguments.out / "documents.jsonl"
    frame.write_ndjson(given)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    command = [str(arguments.python), str(Path(__file__).with_name("corpus_datatrove.py")), str(given)]
    theirs = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
    ours: dict[str, float] = {}
    for name, work in (
        ("filters", lambda: add_statistics(frame.select("text", "domain"))),
        ("signatures", lambda: signatures(hash_words(frame["text"]))),
    ):
        work()  # imports and first use
        started = time.perf_counter()
        work()
        ours[name] = time.perf_counter() - started
    return {
        "documents": DOCUMENTS,
        "bytes": size,
        "polars threads": pl.thread_pool_size(),
        **{
            name: {
                "ours_seconds": round(ours[name], 3),
                "datatrove_seconds": round(theirs[name], 3),
                "ours_mb_per_s": round(size / ours[name] / 1e6, 2),
                "datatrove_mb_per_s": round(size / theirs[name] / 1e6, 3),
                "ratio": round(theirs[name] / ours[name], 1),
            }
            for name in ("filters", "signatures")
        },
        "datatrove keeps": theirs["kept"],
    }


def duplicates(arguments: argparse.Namespace) -> dict[str, Any]:
    """Duplicates alone, without rules: exact copies of the raw text, and all pairs of a sample by brute force."""
    import polars as pl

    root = arguments.out / "duplicates"
    shutil.rmtree(root, ignore_errors=True)
    params = prepare(root, arguments.text, None)
    params |= {"quality": {"recipes": []}, "quality_by_domain": {}, "decontamination": None}
    run = timed(root, params)
    out = root / "work/corpus/out"
    kept = pl.read_parquet(out / "documents/*.parquet", columns=["id", "source", "cluster_id"])
    rejected = pl.read_parquet(out / "rejected/*.parquet", columns=["id", "source", "cluster_id", "reason", "value"])
    raw = pl.concat(
        [pl.read_parquet(path, columns=["id", "text"]) for path in sorted(arguments.text.glob("*.parquet"))]
    )
    raw = raw.with_columns(("files:" + pl.col("id")).alias("id"))
    copies = raw.with_columns(pl.col("id").is_in(kept["id"].implode()).alias("kept"))
    groups = copies.group_by("text").agg(pl.len().cast(pl.Int64).alias("copies"), pl.col("kept").sum().cast(pl.Int64))
    left = groups.filter(pl.col("copies") > 1)
    every = pl.concat([kept.with_columns(pl.lit(None, pl.String).alias("reason")), rejected.drop("value")])
    return {
        **run,
        "byte-equal copies in the raw text": int((left["copies"] - 1).sum()),
        "of these still kept": int((left["kept"] - 1).clip(0).sum()),
        "least true similarity of a near duplicate with its winner": min(
            rejected.filter(pl.col("reason") == "near_duplicate")["value"].to_list()
        ),
        **_brute_force(root, every),
    }


def _brute_force(root: Path, every: Any) -> dict[str, Any]:
    """All pairs of sampled documents: versions of the same pages, where near duplicates are, and others."""
    import numpy as np
    import polars as pl
    from scipy.sparse import csr_array

    from tasks._words import hash_words
    from tasks.corpus.duplicates.minhash import shingle_sets

    texts = pl.read_parquet(root / "work/corpus/cache/read/*/text.parquet", columns=["id", "text", "source"])
    versions = texts.filter(pl.col("source").str.contains("^(etcd-io|facebook/react-native|MicrosoftDocs)"))
    others = texts.join(versions, on="id", how="anti")
    # All versions, so that whatever resembles a dropped one is among them.
    sample = pl.concat([versions.sort("id"), others.sort("id").sample(OTHERS, seed=0)])
    sample = sample.join(every.select("id", "cluster_id", "reason"), on="id", maintain_order="left")
    sets = shingle_sets(hash_words(sample["text"]))
    sizes = np.array([len(one) for one in sets])
    names, columns = np.unique(np.concatenate(sets), return_inverse=True)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    table = csr_array((np.ones(len(columns), np.float32), columns, starts), (len(sets), len(names)))
    common = (table @ table.T).tocoo()
    upper = common.row < common.col
    left, right, shared = common.row[upper], common.col[upper], common.data[upper]
    jaccard = shared / (sizes[left] + sizes[right] - shared)
    cluster = np.array([name or "" for name in sample["cluster_id"].to_list()], object)
    kept = sample["reason"].is_null().to_numpy()
    result: dict[str, Any] = {"sampled documents": len(sets)}
    for bound in (0.7, 0.8, 0.9):
        pairs = jaccard >= bound
        a, b = left[pairs], right[pairs]
        together = (cluster[a] == cluster[b]) & (cluster[a] != "")
        result[f"pairs of Jaccard >= {bound}"] = int(pairs.sum())
        result[f"recall at {bound}: both in one cluster"] = round(float(together.mean()), 5)
        result[f"of these, both kept, at {bound}"] = int((kept[a] & kept[b]).sum())
    # A dropped document must resemble a kept one of its cluster; only those are judged whose kept ones were sampled.
    near = (sample["reason"] == "near_duplicate").fill_null(False).to_numpy()
    closest: dict[int, float] = {}
    for a, b in ((left, right), (right, left)):
        own = near[a] & kept[b] & (cluster[a] == cluster[b])
        for document, value in zip(a[own].tolist(), jaccard[own].tolist(), strict=True):
            closest[document] = max(closest.get(document, 0.0), value)
    result["dropped near duplicates with a kept one of their cluster in the sample"] = len(closest)
    right_ones = sum(value >= 0.7 for value in closest.values())
    result["precision: of these, Jaccard >= 0.7 with a kept one"] = round(right_ones / max(1, len(closest)), 5)
    return result


if __name__ == "__main__":
    main()
