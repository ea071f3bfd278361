"""What decontamination has found, per benchmark: counts, and samples with the words that were found."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tasks._words import hash_words, ngrams
from tasks.benchmarks.overlap import SHORTEST, Hits, NgramIndex
from tasks.benchmarks.postings import items_at, places_of

SAMPLES = 3
"""Items shown per benchmark, those with the smallest ids."""
WORD = r"[\p{L}\p{M}\p{N}_]+"


def report_of(
    index: NgramIndex, hits: Hits, document_of: Callable[[int], tuple[str, str]]
) -> dict[str, dict[str, Any]]:
    """Per benchmark, also those of which nothing was found: items, searchable items, ignored n-grams, items found,
    documents that contain one, and samples of the form {"item", "document", "words", "ngrams_shared"}.

    `document_of(number)` gives id and text of a document in `hits`; it is asked for sampled ones only.
    """
    benchmark_of_hit = index.benchmark_of_item[hits.item]
    report: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(index.names):
        own = np.flatnonzero(benchmark_of_hit == number)
        found, first = np.unique(hits.item[own], return_index=True)
        of_benchmark = index.keys_of_item[index.benchmark_of_item == number]
        samples = []
        for item, place in zip(found[:SAMPLES].tolist(), own[first[:SAMPLES]].tolist(), strict=True):
            identity, text = document_of(int(hits.document[place]))
            shared = int(hits.ngrams_shared[place])
            words = shared_words(index, text, item)
            samples.append({"item": index.ids[item], "document": identity, "words": words, "ngrams_shared": shared})
        report[name] = {
            "items": len(of_benchmark),
            "searchable": int((of_benchmark > 0).sum()),
            "ignored_ngrams": index.ignored[number],
            "items_found": len(found),
            "documents": len(np.unique(hits.document[own])),
            "samples": samples,
        }
    return report


def shared_words(index: NgramIndex, text: str, item: int) -> str:
    """The first n-gram of the item (or its short question) in the text, lower-cased, between single spaces; where there
    is none, the text is the item's question, and its first words are given."""
    import polars as pl

    spelled = pl.Series([text]).str.to_lowercase().str.extract_all(WORD)[0].to_list()
    words = hash_words([text])
    for length in (index.n, *range(index.n - 1, SHORTEST - 1, -1)):
        postings = index.ngrams if length == index.n else index.short
        places, found = places_of(postings.keys, ngrams(words, length)[0])
        at = np.flatnonzero(found)
        items, number = items_at(postings, places[at])
        own = at[number[items == item]]
        if len(own):
            return " ".join(spelled[own[0] : own[0] + length])
    return " ".join(spelled[: index.n])
