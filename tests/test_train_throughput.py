import argparse
import dataclasses
import itertools

from benchmarks.train_throughput import DEFAULT, VARIANTS, Child, table


def test_every_row_of_the_table_adds_one_choice_to_the_row_before():
    """Otherwise a row would justify nothing; the last one is what a run chooses by itself."""
    assert len(DEFAULT) > 5 and DEFAULT[0] == "fp32" and DEFAULT[-1] == "final"
    for before, after in itertools.pairwise(DEFAULT[:-1]):
        old, new = (dataclasses.asdict(VARIANTS[name]) for name in (before, after))
        assert sum(old[field] != new[field] for field in old if field != "says") == 1, after
    final = VARIANTS["final"]
    assert (final.attention, final.compute_dtype, final.compile) == ("auto", "auto", "auto")


def test_a_row_says_the_median_and_the_spread_over_all_rounds():
    options = argparse.Namespace(
        batch_tokens=100, depth=4, vocab_size=64, tokens_per_row=10, micro_batch_rows=2, rounds=2, steps=2, device="cpu"
    )
    child = Child.__new__(Child)
    child.name, child.peaks = "bf16", [900.0, 1000.0]
    child.ready = {"prepare": 1.5, "choice": {"reasons": ["a reason"]}, "notes": [], "threads": 3}
    child.rounds = [
        {"seconds": [1.0, 2.0], "faults": 10.0, "memory": 3e9},
        {"seconds": [2.0, 4.0], "faults": 30.0, "memory": 5e9},
    ]
    text = table([child.row(options, flops_per_token=2.0)], options)
    assert "| bf16 | + bfloat16 products | 50 | 25 to 100 | 0.000 | 10.0% | 5.00 | 20 |" in text
    assert "3 threads" in text and "- bf16: prepared in 1.5 s; a reason" in text
