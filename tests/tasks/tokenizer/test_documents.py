"""Which documents the vocabulary is learned from, read as a stream."""

from pathlib import Path

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.tokenizer.documents import MIN_HELD_OUT, choose, in_file_order, measure_documents, read_texts
from tests.tasks.tokenizer.test_stage import corpus, write


def test_the_sample_is_bounded_and_apart_from_the_held_out_documents(tmp_path: Path) -> None:
    folder = write(tmp_path, corpus(), files=2)
    files = sorted(folder.iterdir())
    training, measured, is_held_out = choose(measure_documents(files, 50), 2_000)
    assert is_held_out
    assert training.height == 40  # 40 documents of 50 characters
    assert MIN_HELD_OUT <= measured.height <= 40
    assert not set(training.select("file", "row").rows()) & set(measured.select("file", "row").rows())


def test_a_huge_document_does_not_use_up_what_is_held_out(tmp_path: Path) -> None:
    """The last document in hash order was larger than all that may be held out: nothing was, and the report called
    the training documents held out."""
    frame = corpus()
    files = sorted(write(tmp_path, frame).iterdir())
    last = choose(measure_documents(files, 50), 10**9).measured["row"][-1]
    big = frame.with_row_index().with_columns(
        text=pl.when(pl.col("index") == last).then(pl.lit("x" * 3_000_000)).otherwise("text")
    )
    files = sorted(write(tmp_path / "big", big.drop("index")).iterdir())
    assert choose(measure_documents(files, 10_000), 10**9).is_held_out


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 59)), st.integers(1, 60), st.sampled_from([1, 7, 100]))
def test_reading_gives_exactly_the_chosen_texts(tmp_path_factory, rows: set[int], files: int, group: int) -> None:
    frame = corpus(60)
    files = min(files, 4)
    paths = sorted(write(tmp_path_factory.mktemp("read"), frame, files, row_group_size=group).iterdir())
    table = measure_documents(paths, 25)
    names = [(row % files, row // files) for row in sorted(rows)]
    chosen = table.filter(pl.struct("file", "row").map_elements(lambda x: (x["file"], x["row"]) in names, pl.Boolean))
    expected = [frame["text"][row * files + file][:25] for file, row in sorted(names)]
    assert list(read_texts(paths, chosen, 25)) == expected
    ordered = in_file_order(chosen)
    assert ordered["bytes"].to_list() == [len(text.encode()) for text in expected]
    assert ordered["domain"].cast(str).to_list() == [frame["domain"][r * files + f] for f, r in sorted(names)]
