"""From a model back to the runs, keys, code and source documents it was made of."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from flows import ROOT
from flows.promote import resolve_version
from model.row_files import read_manifest
from tasks import _keys, _tracking
from tasks._errors import StageError
from tasks.shards.inspect import places_as_text
from tasks.stages import NUMBER, Stage


@dataclass(frozen=True)
class Origin:
    """One stage run a model descends from."""

    stage: Stage
    key: str
    run: Any
    """Its MLflow run, or None when tracking does not know it."""
    upstream: dict[str, str] = field(default_factory=dict)
    """Stage -> K of the runs it read from."""


def show_lineage(reference: str, document: str | None = None) -> None:
    """Print every ancestor of a registered version, an alias or a path below artifacts/, down to the documents.

    With `document`, an id of the corpus, also which rows of the shards this model was trained on hold it.
    """
    client = _tracking.client()
    stage, key, title = _start(client, reference)
    print(f"{title}\nK {key}\n")
    origins = walk(client, stage, key)
    for origin in origins:
        print(_line(origin))
    corpus = next((o for o in origins if o.stage == Stage.CORPUS), None)
    if corpus:
        print("\n" + documents(corpus))
    shards = next((o for o in origins if o.stage == Stage.SHARDS), None)
    if shards:
        print("\n" + rows(shards, document))


def _start(client: Any, reference: str) -> tuple[Stage, str, str]:
    path = Path(reference)
    if path.exists():
        parts = path.resolve().relative_to(ROOT).parts if path.resolve().is_relative_to(ROOT) else ()
        if len(parts) < 2 or parts[0] != "artifacts" or parts[1] not in list(Stage):
            raise StageError(
                f"{reference} is not below artifacts/<stage>/; next: give a registered version or an alias"
            )
        key = _keys.recorded(parts[1])
        if key is None:
            raise StageError(f"{reference}: dvc.lock has no entry for stage {parts[1]}; next: `dvc repro {parts[1]}`")
        return Stage(parts[1]), key, f"{reference}, written by stage {parts[1]}"
    version = client.get_model_version(_tracking.REGISTERED_MODEL, resolve_version(client, reference))
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    return Stage.EXPORT, version.tags["K"], f"{_tracking.REGISTERED_MODEL} version {version.version}{aliases}"


def walk(client: Any, stage: Stage, key: str) -> list[Origin]:
    """The run with this key and all runs upstream of it, from the sources to the model."""
    lock = {name: _keys.keys_from_lock_entry(entry)[0] for name, entry in _keys.lock_entries().items()}
    found: dict[Stage, Origin] = {}
    waiting = [(stage, key)]
    while waiting:
        name, k = waiting.pop()
        if name in found:
            continue
        run = _find_run(client, name, k)
        upstream = {
            t.removeprefix("upstream."): v for t, v in (run.data.tags if run else {}).items() if "upstream." in t
        }
        if not run and lock.get(name) == k:
            upstream = {up: lock[up] for up in _keys.stage_graph()[name] if up in lock}
        found[name] = Origin(name, k, run, upstream)
        waiting += [(Stage(up), upstream_key) for up, upstream_key in upstream.items()]
    return sorted(found.values(), key=lambda origin: list(Stage).index(origin.stage))


def _find_run(client: Any, stage: Stage, key: str) -> Any:
    query = f"tags.K = '{key}' and tags.stage = '{stage}' and attributes.status = 'FINISHED'"
    runs = client.search_runs([_tracking.experiment_id(client)], filter_string=query, max_results=1)
    return runs[0] if runs else None


def _line(origin: Origin) -> str:
    head = f"{NUMBER[origin.stage]:>4} {origin.stage:<13} K {origin.key[:12]}"
    if origin.run is None:
        return f"{head}  (no MLflow run: tracking was off or its store is another one)"
    info, tags = origin.run.info, origin.run.data.tags
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(info.start_time / 1000))
    return f"{head}  run {info.run_id[:12]}  {when}  git {tags.get('git.sha', '?')[:12]}"


def documents(corpus: Origin) -> str:
    """The documents of that corpus: counts per source and the first ids; how to get them back when they are gone."""
    if _keys.recorded(Stage.CORPUS) != corpus.key:
        return f"documents: the workspace holds another corpus; {_way_back(corpus)}"
    folder = ROOT / "artifacts" / "corpus"
    table = pl.scan_parquet(folder / "documents" / "*.parquet")
    counts = table.group_by("domain").agg(pl.len().alias("n"), pl.col("text").str.len_bytes().sum().alias("bytes"))
    rows = counts.sort("n", descending=True).collect().rows()
    lines = [f"documents: {sum(r[1] for r in rows):,} in {folder.relative_to(ROOT)}/documents/ (column id)"]
    lines += [f"  {domain:<24} {count:>8,} documents {size / 1e6:>8.1f} MB" for domain, count, size in rows]
    first = table.select("id").head(3).collect()["id"].to_list()
    lines.append(f"  first ids: {json.dumps(first)}")
    return "\n".join(lines)


def rows(shards: Origin, document: str | None = None) -> str:
    """The rows the model was trained on: how many of each split; with `document`, those that hold it.

    StageError when the document was asked for and cannot be found.
    """
    if _keys.recorded(Stage.SHARDS) != shards.key:
        if document is not None:
            raise StageError(f"rows of {document!r}: the workspace holds other shards; next: {_way_back(shards)}")
        return f"rows: the workspace holds other shards; {_way_back(shards)}"
    folder = ROOT / "artifacts" / "shards"
    try:
        manifest = read_manifest(folder)
        found = places_as_text(folder, document) if document is not None else None
    except ValueError as error:
        raise StageError(str(error)) from None
    splits = [
        f"{manifest[split]['rows']:,} of {split}" for split in ("train", "val") if isinstance(manifest.get(split), dict)
    ]
    lines = [f"rows: {', '.join(splits)} in {folder.relative_to(ROOT)}/, {manifest['tokens_per_row']} tokens each"]
    lines.append(found or "  where a document lies: python -m tasks.shards inspect artifacts/shards --document <id>")
    return "\n".join(lines)


def _way_back(origin: Origin) -> str:
    """How to have the artifact with this K in the workspace again."""
    sha = origin.run.data.tags.get("git.sha", "?") if origin.run else "?"
    return f"`git checkout {sha.removesuffix('-dirty')} && dvc checkout` brings back the one with this K"
