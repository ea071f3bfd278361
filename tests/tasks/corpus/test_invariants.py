"""Nothing is lost, whatever the documents and parameters, and however rows are dealt to files."""

import json
import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tasks._errors import StageError
from tests.tasks.corpus.small_corpora import as_lines, make_text, read_kept, read_rejected, run_corpus

BASES = [make_text(n) for n in range(3)]
NOTICE = "Permission is granted to anyone to use this page for any purpose whatsoever."


def _variant(base: int, change: str) -> str:
    text = BASES[base]
    return {
        "same": text,
        "upper": text.upper() + "!",
        "longer": text + " and a few more words",
        "shorter": text.rsplit(" ", 8)[0],
        "half": " ".join(text.split()[:30]),
        "notice": f"{text}\n\n{NOTICE}",
        "only notice": f"{NOTICE}\n\n{NOTICE}",
        "short": text[:40],
        "symbols": ("#$% &*( " * (base + 4)).strip(),
        "other": make_text(f"other {base}"),
    }[change]


CHANGES = ["same", "upper", "longer", "shorter", "half", "notice", "only notice", "short", "symbols", "other"]


def _record(base: int, change: str, domain: str, name: int) -> dict[str, Any]:
    """The URL follows from the text: of records alike in everything else, any may be the one that is kept."""
    url = {"url": "https://spam.example/x"} if change == "other" else {}
    return {"id": str(name), "text": _variant(base, change), "domain": domain, "source": "page", **url}


RECORDS = st.builds(
    _record,
    st.integers(0, len(BASES) - 1),
    st.sampled_from(CHANGES),
    st.sampled_from(["one", "two", "a/b", ""]),
    st.integers(0, 12),
)
PARAMS = st.fixed_dictionaries(
    {
        "quality": st.fixed_dictionaries(
            {"recipes": st.sampled_from([[], ["zero2chat"]]), "min_characters": st.sampled_from([None, 50, 200])}
        ),
        "duplicates": st.fixed_dictionaries(
            {
                "exact": st.booleans(),
                "min_jaccard": st.sampled_from([None, 0.3, 0.5, 0.7, 0.9, 1.0]),
                "max_paragraph_documents": st.sampled_from([None, 1, 2]),
                "min_paragraph_characters": st.sampled_from([20, 60]),
            }
        ),
        "blocklist": st.sampled_from([{}, {"domains": ["spam.example"]}]),
        "mixing": st.sampled_from(
            [None, None, {"weights": {"*": 1}, "bytes": 3000}, {"weights": {"*": 1}, "max_epochs": 3, "bytes": 9000}]
        ),
        "max_bytes": st.sampled_from([None, None, 2000, 6000]),
        "max_documents": st.sampled_from([None, None, 1, 5]),
    }
)


def _try(root: Path, files: dict[str, bytes], params: dict[str, Any]) -> str:
    """The report's total, or the beginning of the error."""
    try:
        report = run_corpus(root, files, guard={"allow_idle": ["*"], "allow_drop": ["*"]}, **params)
    except StageError as error:
        return str(error).partition("reasons")[0]
    return json.dumps({**report, "shards": 0}, sort_keys=True)


# Without shrinking: a failure would take minutes to be told.
@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    rows=st.lists(RECORDS, min_size=1, max_size=25), params=PARAMS, files=st.integers(1, 4), shuffle=st.integers(0, 99)
)
def test_nothing_is_lost_and_the_dealing_of_rows_to_files_does_not_matter(
    rows: list[dict[str, Any]], params: dict[str, Any], files: int, shuffle: int
) -> None:
    """Sums per shard, domain and in total are checked by the report itself."""
    folder = Path(tempfile.mkdtemp())
    try:
        first, second = folder / "one", folder / "several"
        dealt = random.Random(shuffle).sample(rows, len(rows))
        parts = {f"{number}.jsonl": as_lines(dealt[number::files]) for number in range(files) if dealt[number::files]}
        outcome = _try(first, {"all.jsonl": as_lines(rows)}, params)
        assert _try(second, parts, params) == outcome
        if not outcome.startswith("{"):
            return
        for name in ("documents/00000.parquet", "rejected/00000.parquet"):
            one, two = (root / "work/corpus/out" / name for root in (first, second))
            assert pl.read_parquet(one).rows() == pl.read_parquet(two).rows()
        _check_documents(rows, read_kept(first), read_rejected(first), params)
    finally:
        shutil.rmtree(folder)


def _check_documents(
    rows: list[dict[str, Any]], kept: pl.DataFrame, rejected: pl.DataFrame, params: dict[str, Any]
) -> None:
    ids = [*kept["id"], *rejected["id"]]
    assert len(set(ids)) == len(ids) == len(rows)
    assert Counter(name.partition("#")[0] for name in ids) == Counter(f"files:{row['id']}" for row in rows)
    copies = rejected.filter(pl.col("reason").is_in(["exact_duplicate", "near_duplicate"]))
    assert set(copies["cluster_id"]) <= set(ids)
    assert kept["repeats"].is_between(1, 4).all()
    texts = {row["text"] for row in rows}
    if params["duplicates"]["max_paragraph_documents"] is None:
        assert set(kept["text"]) <= texts
    else:
        assert all(any(part in text for text in texts) for whole in kept["text"] for part in whole.split("\n\n"))
    if params["max_documents"] is not None:
        assert kept.height <= params["max_documents"]
    if params["max_bytes"] is not None:
        assert (kept["text"].str.len_bytes() * kept["repeats"]).sum() <= params["max_bytes"]
