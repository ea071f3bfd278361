"""From a mixture to rows: nothing is cropped, everything is counted, the held-out documents stay out."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batches import RowFolder
from model.chat_format import render
from model.tokenizer import Tokenizer, byte_tokenizer_json
from tasks._errors import StageError
from tasks._params import StageParams
from tasks.conversations.build import PartReport, Rendered, Sources, build, fit
from tasks.conversations.generators import Conversation
from tasks.conversations.mixture import Mixture, Part
from tasks.conversations.rows import mixed_fit, pack, prepare_rows
from tasks.conversations.steps import steps_for
from tasks.stages import Stage
from tests.stage_context import make_context
from tests.tasks.conversations.corpus_files import TOKENS_PER_ROW, held_out_names, write_corpus

TOKENIZER = Tokenizer.from_json(byte_tokenizer_json())
MIXTURE = Mixture(conversation_tokens=20_000, seed=3)


@pytest.fixture
def root(tmp_path):
    write_corpus(tmp_path)
    for folder in ("chat", "benchmarks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    return tmp_path


def sources(root):
    return Sources(
        root / "artifacts/corpus/documents", root / "artifacts/shards/documents.parquet", lambda: root / "data/chat"
    )


def exchange(number, size=20):
    return [{"role": "user", "content": f"q{number}" * size}, {"role": "assistant", "content": f"a{number}" * size}]


def test_mixture_keeps_its_shares_and_counts_itself(root):
    rendered, reports = build(MIXTURE, sources(root), TOKENIZER, TOKENS_PER_ROW)
    assert sum(report.tokens for report in reports.values()) == sum(len(piece.ids) for piece in rendered)
    assert sum(report.conversations for report in reports.values()) == len({id(p.conversation) for p in rendered})
    for part in MIXTURE.parts:
        budget = MIXTURE.tokens_of(part)
        assert budget <= reports[part.name].tokens <= budget + TOKENS_PER_ROW + 1


def test_held_out_documents_are_in_no_conversation(root):
    """Catches a documentation part that ignores the split: multiple choice would test memory."""
    mixture = Mixture(parts=(Part(kind="documentation", count=300),))
    rendered, reports = build(mixture, sources(root), TOKENIZER, TOKENS_PER_ROW)
    text = json.dumps([piece.conversation.messages for piece in rendered])
    assert "package." in text
    assert not [name for name in held_out_names() if name in text]
    assert reports["documentation"].notes["passes"] > 1


def test_conversation_of_exactly_one_row_is_kept_whole():
    """The boundary: tokens_per_row + 1 ids fit, one more does not."""
    messages = tuple(exchange(1))
    length = len(render(TOKENIZER, messages)[0])
    report = PartReport()
    whole = fit(Conversation("jsonl", "f:1", messages), TOKENIZER, length - 1, report)
    assert [len(piece.ids) for piece in whole] == [length]
    assert fit(Conversation("jsonl", "f:1", messages), TOKENIZER, length - 2, report) == []
    assert report.dropped == {"no exchange fits a row": 1}
    assert report.dropped_samples == ["f:1: no exchange fits a row"]


def test_long_conversations_are_split_between_turns_without_loss():
    system = {"role": "system", "content": "be brief"}
    messages = (system, *(message for number in range(6) for message in exchange(number)))
    report = PartReport()
    pieces = fit(Conversation("jsonl", "f:1", messages), TOKENIZER, 200, report)
    assert len(pieces) > 1
    assert report.split_conversations == 1
    assert all(piece.conversation.messages[0] == system for piece in pieces)
    assert [m for piece in pieces for m in piece.conversation.messages[1:]] == list(messages[1:])
    assert all(len(piece.ids) <= 201 and any(piece.mask[1:]) for piece in pieces)


def test_an_exchange_longer_than_a_row_costs_only_itself():
    """Bug it catches: one long answer dropped all the turns around it."""
    messages = (*exchange(0), *exchange(1, 200), *exchange(2), *exchange(3))
    report = PartReport()
    pieces = fit(Conversation("jsonl", "f:1", messages), TOKENIZER, 250, report)
    assert [piece.conversation.messages for piece in pieces] == [messages[:2], messages[4:]]
    assert (report.split_conversations, report.exchanges_left_out, report.dropped) == (1, 1, {})


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 60), st.integers(0, 60)), min_size=1, max_size=8),
    system=st.one_of(st.none(), st.integers(1, 30)),
    tokens_per_row=st.integers(8, 200),
)
def test_every_exchange_is_in_one_piece_or_counted(sizes, system, tokens_per_row):
    """In = out + counted losses; the ids are those of the piece's own messages; greedy pieces could not be longer."""
    turns = [
        message
        for number, (asked, answered) in enumerate(sizes)
        for message in (
            {"role": "user", "content": chr(97 + number) * asked},
            {"role": "assistant", "content": chr(65 + number) * answered},
        )
    ]
    head = () if system is None else ({"role": "system", "content": "s" * system},)
    report = PartReport()
    pieces = fit(Conversation("jsonl", "f:1", (*head, *turns)), TOKENIZER, tokens_per_row, report)
    kept = [message for piece in pieces for message in piece.conversation.messages[len(head) :]]
    assert [message for message in turns if message in kept] == kept
    lost = len(turns) // 2 - len(kept) // 2
    assert lost == (report.exchanges_left_out if pieces else len(turns) // 2)
    assert sum(report.dropped.values()) == (not pieces)
    for piece in pieces:
        assert (piece.ids, piece.mask) == render(TOKENIZER, piece.conversation.messages)
        assert len(piece.ids) <= tokens_per_row + 1
        assert piece.conversation.messages[: len(head)] == head


def test_packed_rows_hold_every_conversation_whole():
    """Catches cropping, masks that drift away from their ids, and supervised padding."""
    made = [Conversation("jsonl", str(n), tuple(exchange(n, 1 + n % 9))) for n in range(60)]
    rendered = [Rendered(c, *render(TOKENIZER, c.messages)) for c in made]
    pad = TOKENIZER.special_id("<|output_end|>")
    rows, mask = pack(rendered, 160, pad, all_tokens=False, seed=0)
    found = []
    for ids, flags in zip(rows.tolist(), mask.tolist(), strict=True):
        starts = [place for place, number in enumerate(ids) if number == TOKENIZER.bos_id]
        end = ids.index(pad) if pad in ids else len(ids)
        assert not any(flags[end:])
        assert any(flags[1:])
        for start, stop in zip(starts, [*starts[1:], end], strict=True):
            found.append((tuple(ids[start:stop]), tuple(flags[start:stop])))
    assert sorted(found) == sorted((tuple(piece.ids), tuple(piece.mask)) for piece in rendered)


def test_short_conversations_of_all_lengths_share_rows_and_none_is_lost():
    """Catches rows of one kind only (packing longest first made small batches noisy), and lost or doubled ones."""
    lengths = [20] * 200 + [60] * 200 + [300] * 10
    rows = mixed_fit(lengths, 400, seed=0)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    assert all(sum(lengths[number] for number in row) <= 400 for row in rows)
    mixed = [row for row in rows if len({lengths[number] for number in row}) > 1]
    assert len(mixed) > 0.8 * len(rows)
    assert 1 - sum(lengths) / (400 * len(rows)) < 0.05
    assert rows == mixed_fit(lengths, 400, seed=0) != mixed_fit(lengths, 400, seed=1)


def test_rows_are_deterministic_reused_and_reported(root):
    def prepare(number):
        ctx = make_context(root / str(number), Stage.SFT, StageParams())
        ctx.root = root
        folder = prepare_rows(ctx, MIXTURE, TOKENIZER, all_tokens=False)
        return ctx, folder, {path.name: path.read_bytes() for path in folder.iterdir()}

    ctx, folder, first = prepare(1)
    assert first == prepare(2)[2]
    assert ctx.figures["conversations"] > 50
    marker = folder / "train_00000.bin"
    changed = marker.stat().st_mtime_ns
    assert prepare_rows(ctx, MIXTURE, TOKENIZER, all_tokens=False) == folder
    assert marker.stat().st_mtime_ns == changed
    table = pl.read_parquet(folder / "conversations.parquet")
    assert table["tokens"].sum() == ctx.figures["conversation_tokens"]


def test_midtraining_rows_supervise_everything_but_padding_and_mix_in_text(root):
    ctx = make_context(root, Stage.MIDTRAIN, StageParams())
    mixture = Mixture(parts=(Part(kind="smalltalk", weight=1.0),), conversation_tokens=4_000)
    folder = prepare_rows(ctx, mixture, TOKENIZER, all_tokens=True, pretraining_share=0.25)
    source = RowFolder(folder, "train")
    batch = source.batch(np.arange(source.rows))
    assert ((batch.weights_BT > 0) == (batch.targets_BT != source.pad_id)).all()
    assert ctx.figures["pretraining_rows"] / ctx.figures["rows"] == pytest.approx(0.25, abs=0.08)
    text = TOKENIZER.decode(batch.ids_BT.flatten().tolist())
    assert "that were given" in text
    assert not [name for name in held_out_names() if name in text]


def test_a_half_built_folder_does_not_count(root):
    ctx = make_context(root, Stage.SFT, StageParams())
    (ctx.resume / "rows.unfinished").mkdir(parents=True)
    (ctx.resume / "rows.unfinished" / "train_00000.bin").write_bytes(b"half")
    folder = prepare_rows(ctx, MIXTURE, TOKENIZER, all_tokens=False)
    assert RowFolder(folder, "train").rows == ctx.figures["rows"]


def test_shards_of_another_tokenizer_are_refused(root):
    manifest = root / "artifacts/shards/manifest.json"
    manifest.write_text(manifest.read_text().replace(TOKENIZER.sha256, "0" * 64))
    ctx = make_context(root, Stage.SFT, StageParams())
    with pytest.raises(StageError, match="dvc repro shards"):
        prepare_rows(ctx, MIXTURE, TOKENIZER, all_tokens=False)


def test_own_files_come_with_the_mixture(root):
    line = json.dumps({"messages": exchange(5)}) + "\n"
    (root / "data/chat/own.jsonl").write_text(line * 7)
    mixture = Mixture(parts=(Part(kind="jsonl", glob="*.jsonl", count=5),))
    rendered, reports = build(mixture, sources(root), TOKENIZER, TOKENS_PER_ROW)
    assert len(rendered) == reports["jsonl *.jsonl"].conversations == 5
    assert reports["jsonl *.jsonl"].notes["available"] == 7


def test_conversations_with_benchmark_items_reach_no_row(root):
    """The folder is read through the stage, and the loss is in its report."""
    leak = "Which of the nine planets has the longest day when it is measured in hours of ours?"
    lines = [json.dumps({"messages": exchange(number)}) for number in range(5)]
    lines.append(json.dumps({"messages": [{"role": "user", "content": leak.upper()}, exchange(1)[1]]}))
    (root / "data/chat/own.jsonl").write_text("\n".join(lines))
    mixture = Mixture(parts=(Part(kind="jsonl", glob="*.jsonl", count=9),))

    def sources_of(number):
        ctx = make_context(root / str(number), Stage.SFT, StageParams())
        ctx.root = root
        folder = prepare_rows(ctx, mixture, TOKENIZER, all_tokens=False)
        report = json.loads((folder / "report.json").read_text())
        return set(pl.read_parquet(folder / "conversations.parquet")["source"]), ctx.figures, report["parts"]

    before, figures, parts = sources_of(1)
    assert "own.jsonl:6" in before
    assert figures["conversations_contaminated"] == 0
    assert "contaminated" not in parts["jsonl *.jsonl"]
    (root / "data/benchmarks/quiz.jsonl").write_text(json.dumps({"question": leak, "answer": "Venus"}))
    after, figures, parts = sources_of(2)
    assert before - after == {"own.jsonl:6"}
    assert figures["conversations_contaminated"] == 1
    assert parts["jsonl *.jsonl"]["contaminated"]["benchmarks"]["quiz"]["documents"] == 1


def test_benchmarks_are_not_read_for_conversations_made_by_rule(root):
    (root / "data/benchmarks/broken.jsonl").write_text("{")
    ctx = make_context(root, Stage.SFT, StageParams())
    assert prepare_rows(ctx, MIXTURE, TOKENIZER, all_tokens=False).is_dir()


def test_a_part_that_gives_nothing_is_named(root):
    """Catches an endless loop over conversations that never fit a row."""
    mixture = Mixture(parts=(Part(kind="arithmetic", weight=1.0),), conversation_tokens=100)
    with pytest.raises(StageError, match="'arithmetic' gave no conversation"):
        build(mixture, sources(root), TOKENIZER, 8)


@pytest.mark.parametrize(
    "part",
    [
        {"kind": "arithmetic"},
        {"kind": "arithmetic", "weight": 1.0, "count": 2},
        {"kind": "jsonl", "count": 2},
        {"kind": "smalltalk", "count": 2, "glob": "*.jsonl"},
        {"kind": "poetry", "count": 2},
    ],
)
def test_impossible_parts_are_refused(part):
    with pytest.raises(ValueError, match=r"part of kind|Input should be"):
        Mixture.model_validate({"parts": [part]})


def test_steps_cover_the_rows(root):
    ctx = make_context(root, Stage.SFT, StageParams())
    folder = prepare_rows(ctx, MIXTURE, TOKENIZER, all_tokens=False)
    rows = RowFolder(folder, "train").rows
    assert steps_for(folder, 1.0, rows * TOKENS_PER_ROW) == 1
    assert steps_for(folder, 2.0, rows * TOKENS_PER_ROW) == 2
    assert steps_for(folder, 1.0, rows * TOKENS_PER_ROW - 1) == 2
    assert steps_for(folder, 1.0, 8, steps=3) == 3
