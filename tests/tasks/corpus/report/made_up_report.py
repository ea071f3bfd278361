"""A corpus report with made-up numbers that agree, in the shape that the stage gives it."""

from collections import Counter
from typing import Any

import numpy as np
import polars as pl

from tasks.corpus.report.histograms import Histograms

DOMAINS = {
    "books": 1349, "tech-docs": 3895, "specs": 1380, "html-docs": 508, "education": 1284, "code-tutorials": 799,
    "legal": 352, "translations": 249, "textbooks": 279, "cheatsheets": 4470, "religious": 815, "encyclopedia": 104,
    "link-lists": 192, "logs-data": 38, "blog": 83,
}  # fmt: skip
STATISTICS = {  # statistic: (bounds as {minimum, maximum}, scale of the made-up values)
    "characters": ((160, 2_000_000), 3000),
    "words": ((50, 100_000), 500),
    "sentences": ((5, None), 40),
    "stop_words": ((2, None), 6),
    "mean_word_characters": ((3, 10), 5),
    "alphabetic_word_fraction": ((0.8, None), 0.9),
    "terminal_punctuation_line_fraction": ((0.12, None), 0.5),
    **{
        name: ((None, limit), limit / 2)
        for name, limit in {
            "symbol_fraction": 0.2, "digit_fraction": 0.3, "hashes_per_word": 0.1, "ellipses_per_word": 0.1,
            "bullet_line_fraction": 0.9, "ellipsis_line_fraction": 0.3, "duplicate_line_fraction": 0.3,
            "duplicate_paragraph_fraction": 0.3, "duplicate_line_character_fraction": 0.2, "short_line_fraction": 0.67,
            "newlines_per_word": 0.3, "top_2gram_character_fraction": 0.2, "top_3gram_character_fraction": 0.18,
            "top_4gram_character_fraction": 0.16, "duplicate_5gram_character_fraction": 0.15,
            "duplicate_6gram_character_fraction": 0.14, "duplicate_7gram_character_fraction": 0.13,
            "duplicate_8gram_character_fraction": 0.12, "duplicate_9gram_character_fraction": 0.11,
            "duplicate_10gram_character_fraction": 0.1,
        }.items()
    },
}  # fmt: skip
REASONS = ("language", "exact_duplicate", "near_duplicate", "contaminated", "duplicate_paragraphs", "mixing")
TEXTS = (
    "The quick brown fox jumps over the lazy dog.\n\n\tIndented, and then a list:\n- one\n- two\n" * 4,
    "머신 러닝은 경험을 통해 자동으로 개선되는 컴퓨터 알고리즘의 연구이다. " * 9,
    "التعلم الآلي هو دراسة الخوارزميات التي تتحسن تلقائياً من خلال التجربة (2019). " * 6,
    "<script>document.title = 'run'</script><img src=x onerror=alert(1)> &amp; </pre></details>",
    "0000000 7f45 4c46 0201 0100 0000\x00\x1b[31m 0000 \u202e desrever \U0001f600\n" * 5,
)


def _rules(domains: dict[str, int], generator: np.random.Generator) -> dict[str, Any]:
    rules = {}
    for statistic, (limits, _) in STATISTICS.items():
        for side, limit in zip(("min", "max"), limits, strict=True):
            if limit is not None:
                rules[f"{side}_{statistic}"] = {
                    "statistic": statistic,
                    "is_minimum": side == "min",
                    "threshold": limit,
                    "by_domain": {},
                    "broken": {name: int(generator.binomial(n, 0.04)) for name, n in domains.items()},
                }
    rules["max_digit_fraction"]["by_domain"] = {"cheatsheets": 0.5, "specs": None}
    rules["min_characters"]["by_domain"] = {"cheatsheets": 60, "religious": 20}
    rules["max_digit_fraction"]["broken"].pop("specs", None)
    rules["min_alphabetic_word_fraction"]["threshold"] = None
    rules["min_alphabetic_word_fraction"]["broken"] = {"books": 54}
    rules["min_alphabetic_word_fraction"]["by_domain"] = {"books": 0.8}
    return rules


def _histograms(domains: dict[str, int], generator: np.random.Generator) -> dict[str, Any]:
    found = Histograms()
    for name, documents in domains.items():
        columns: dict[str, Any] = {"domain": [name] * documents}
        for statistic, (_, scale) in STATISTICS.items():
            spread = 1.2 if scale > 20 else 0.5
            values = generator.lognormal(np.log(scale), spread, documents)
            columns[statistic] = (np.round(values) if scale > 5 else values).astype(np.float32)
        found.add(pl.DataFrame(columns))
    return found.as_dict()


def _funnels(domains: dict[str, int], reasons: list[str], generator: np.random.Generator) -> dict[str, Any]:
    found = {}
    for name, documents in domains.items():
        shares = np.concatenate([[0.6], 0.4 * generator.dirichlet(np.full(len(reasons), 0.3))])
        kept, *dropped = generator.multinomial(documents, shares).tolist()
        size = documents * 9_000
        counted = {reason: count for reason, count in zip(reasons, dropped, strict=True) if count}
        found[name] = {
            "in": documents, "kept": kept, "in_bytes": size, "kept_bytes": size * kept // documents, "dropped": counted
        }  # fmt: skip
    return found


def _shards(count: int, kept: int, dropped: Counter[str], generator: np.random.Generator) -> list[dict[str, Any]]:
    shards = [{"name": f"{n:05d}-{'0af3' * 4}", "unreadable": int(n == 0) * 7, "dropped": {}} for n in range(count)]
    even = np.full(count, 1 / count)
    for shard, own in zip(shards, generator.multinomial(kept, even).tolist(), strict=True):
        shard["kept"] = own
    for reason, number in sorted(dropped.items()):
        for shard, own in zip(shards, generator.multinomial(number, even).tolist(), strict=True):
            shard["dropped"] |= {reason: own} if own else {}
    for shard in shards:
        shard["in"] = shard["kept"] + sum(shard["dropped"].values())
        shard["records"] = shard["in"] + shard["unreadable"]
    return shards


def _samples(domains: dict[str, int], reasons: dict[str, int], rules: dict[str, Any]) -> dict[str, Any]:
    def row(number: int, name: str) -> dict[str, Any]:
        return {"id": f"files:{name}/{number}", "domain": name, "text": TEXTS[number % len(TEXTS)]}

    names = list(domains)
    found: dict[str, Any] = {"kept": {name: [row(n, name) for n in range(3)] for name in names}}
    for reason in reasons:
        limit = rules.get(reason, {}).get("threshold", 0.7)
        found[reason] = [row(n, names[n % len(names)]) | {"value": 0.4321, "threshold": limit} for n in range(10)]
    return found


def realistic_report(domains: dict[str, int] = DOMAINS, shards: int = 9) -> dict[str, Any]:
    """A report as the stage makes it, with made-up numbers that agree."""
    generator = np.random.default_rng(0)
    rules = _rules(domains, generator)
    funnels = _funnels(domains, [*rules, *REASONS], generator)
    dropped: Counter[str] = Counter()
    for entry in funnels.values():
        dropped.update(entry["dropped"])
    total = {
        key: sum(entry[own] for entry in funnels.values())
        for key, own in (("documents", "in"), ("kept", "kept"), ("bytes", "in_bytes"), ("kept_bytes", "kept_bytes"))
    } | {"dropped": sum(dropped.values())}
    languages = {name: {"en": n * 2 // 3, "ko": n // 5, "ar": n // 9, "": n // 99} for name, n in domains.items()}
    mixing_keys = ("asked_share", "obtained_share", "available_bytes", "asked_bytes", "target_bytes", "obtained_bytes")
    return {
        "records": total["documents"] + 7,
        "unreadable": 7,
        "unreadable_samples": [{"file": "a|b`<i>.jsonl", "line": 3, "reason": "invalid JSON: <b>expected</b> | value"}],
        "duplicate_ids": 12,
        "total": total,
        "dropped_by_reason": dict(dropped),
        "domains": funnels,
        "shards": _shards(shards, total["kept"], dropped, generator),
        "text": {
            name: {"html.documents": n // 3, "email.documents": n // 20, "email.replacements": n * 3}
            for name, n in domains.items()
        },
        "languages": languages,
        "rules": rules,
        "histograms": _histograms(domains, generator),
        "clusters": [
            {
                "cluster_id": f"files:religious/{number}",
                "reason": "near_duplicate" if number % 2 else "exact_duplicate",
                "size": 244 - 10 * number,
                "members": [{"id": f"files:religious/{m}", "similarity": 1 - m / 999} for m in range(30)],
                "sample": TEXTS[number % len(TEXTS)],
            }
            for number in range(20)
        ],
        "samples": _samples(domains, dict(dropped), rules),
        "benchmarks": {
            name: {"items": 1055, "searchable": 1040, "items_found": n, "documents": 2 * n, "samples": hits[: 3 * n]}
            for n, name in enumerate(("gsm8k_test", "lambada_openai", "math"))
            for hits in [[{"item": f"{name}/7", "document": "files:books/1", "words": "a b c <b> d e f g"}] * 6]
        },
        "mixing": [
            {"domain": name, "documents": 5, "epochs": 1.25, "repeated_worth": 0.98}
            | dict(zip(mixing_keys, (0.2, 0.18, 10**7, 10**7, 10**7, 9 * 10**6), strict=True))
            for name in domains
        ],
        "classifier": {"auc": 0.913, "examples": {"good": 900, "bad": 900}, "keep_fraction": None},
    }
