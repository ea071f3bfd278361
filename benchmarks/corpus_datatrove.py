"""datatrove's four quality filters and its MinHash signatures on a JSON Lines file; runs in datatrove's environment.

Prints {"filters": seconds, "signatures": seconds, "kept": {filter: documents}}. Without its readers and writers.
"""

import json
import sys
import time

from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.utils.hashing import HashConfig


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    kept, seconds = {}, 0.0
    for rule in (GopherQualityFilter(), GopherRepetitionFilter(), C4QualityFilter(), FineWebQualityFilter()):
        rule.filter(Document(text="The first call loads the word splitter.", id="0"))
        documents = [Document(text=row["text"], id=row["id"]) for row in rows]
        started = time.perf_counter()
        verdicts = [rule.filter(document) for document in documents]
        seconds += time.perf_counter() - started
        kept[type(rule).__name__] = sum(verdict is True for verdict in verdicts)
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(hash_fc="sha1"))
    signer = MinhashDedupSignature(output_folder="/dev/null", config=config)
    signer.get_signature(signer.get_shingles("one two three four five six"))
    started = time.perf_counter()
    for row in rows:
        shingles = signer.get_shingles(row["text"])
        if shingles.size:  # as its own run() does
            signer.get_signature(shingles)
    print(json.dumps({"filters": seconds, "signatures": time.perf_counter() - started, "kept": kept}))


if __name__ == "__main__":
    main()
