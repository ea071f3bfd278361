"""evaluation: scores that equal plain computations, replies judged by their form, leaks found and listed."""

import json
import lzma
import shutil

import polars as pl
import pytest

from model.bits_per_byte import bits_per_byte
from model.checkpoint import save_weights
from model.engine.row import Completion
from model.tokenizer import Tokenizer, byte_tokenizer_json
from tasks.benchmarks.arithmetic import make_problem
from tasks.benchmarks.documentation import DocumentedObject
from tasks.benchmarks.multiple_choice import Item
from tasks.evaluation import compression, contamination, replies, report, stage, training_text
from tasks.stages import Stage
from tests.stage_context import make_context
from tests.tasks.conversations.corpus_files import write_corpus
from tests.tasks.test_rl import small_model

TOKENIZER = Tokenizer.from_json(byte_tokenizer_json())
SMALL = stage.Params(
    bits_per_byte_rows=6, multiple_choice_items=4, arithmetic_items=5, form_items=6, max_reply_tokens=8, dtype="float32"
)
TOOL_CONVERSATION = [
    {"role": "user", "content": "Ask 1+2"},
    {
        "role": "assistant",
        "parts": [
            {"type": "python", "text": "1+2"},
            {"type": "output", "text": "3"},
            {"type": "text", "text": "The answer is 3."},
        ],
    },
]


def special(name):
    return TOKENIZER.special_id(f"<|{name}|>")


def completion(*parts, reason="stop", text="ok", forced=()):
    ids = [number for part in parts for number in (TOKENIZER.encode(part) if isinstance(part, str) else [part])]
    return Completion(ids, text, [number in forced for number in ids], [0.0] * len(ids), reason)


CALL = (special("python_start"), "1+2", special("python_end"), special("output_start"), special("output_end"))
FORCED = (special("output_start"), special("output_end"))
END = special("assistant_end")


@pytest.mark.parametrize(
    ("made", "good"),
    [
        (completion("fine", END), True),
        (completion(*CALL, "3", END, forced=FORCED), True),
        (completion("endless", reason="length"), False),
        (completion("fine", special("bos")), False),
        (completion("a", special("user_start"), "b", END), False),
        (completion(special("python_start"), "1+2", END), False),
        (completion(special("python_end"), END), False),
        (completion(special("python_start"), special("python_start"), special("python_end"), END), False),
        (completion(*CALL, "3", END), False),  # the model itself wrote an output
        (completion("x", END, text="<|bos|>"), False),
    ],
)
def test_only_complete_replies_end_properly(made, good):
    assert replies.ends_properly(made, TOKENIZER) is good


def test_arithmetic_counts_answer_and_call_separately():
    prompt = replies.arithmetic_prompts(3, seed=0)[0][0]
    answer, expression = prompt.problem.answer, prompt.problem.expression
    spoken = [
        replies.Reply(prompt, f"The answer is {answer}.", ((expression, answer),), True),
        replies.Reply(prompt, f"{answer}", (), True),
        replies.Reply(prompt, "no", ((expression, answer),), True),
        replies.Reply(prompt, f"{answer}", ((expression, answer), (expression, answer)), False),
    ]
    scores = replies.score_arithmetic(spoken)
    assert (scores["arithmetic"].value, scores["tool_call"].value) == (0.75, 0.5)
    assert replies.score_form(spoken).value == 0.75


def test_prompts_are_distinct_held_out_and_deterministic():
    prompts, left_out = replies.arithmetic_prompts(200, seed=0)
    assert left_out == []
    assert len({prompt.messages[0]["content"] for prompt in prompts}) == 200
    assert prompts == replies.arithmetic_prompts(200, seed=0)[0] != replies.arithmetic_prompts(200, seed=1)[0]
    known = contamination.normal_expression(prompts[0].problem.expression)
    others, left_out = replies.arithmetic_prompts(200, seed=0, written={known})
    assert prompts[0].problem.expression in left_out
    assert known not in {contamination.normal_expression(prompt.problem.expression) for prompt in others}


@pytest.fixture
def root(tmp_path):
    tokenizer = write_corpus(tmp_path)
    for number, name in enumerate(("pretrain", "midtrain", "sft")):
        meta = {"stage": name, "step": 1, "tokens": 1, "tokenizer_sha256": tokenizer.sha256, "key": "k"}
        save_weights(tmp_path / f"artifacts/{name}/checkpoint", small_model(tokenizer, number), meta)
    shutil.copytree(tmp_path / "artifacts/sft", tmp_path / "artifacts/rl")
    (tmp_path / "artifacts/rl/problems.jsonl").write_text("")
    (tmp_path / "artifacts/pretrain/curve.csv").write_text("step,tokens,loss,lr\n1,10,5.0,0.1\n2,20,4.0,0.1\n")
    (tmp_path / "artifacts/rl/curve.csv").write_text("")  # as after 0 steps
    for name in ("midtrain", "sft"):
        _conversations(tmp_path / f"artifacts/{name}/conversations.parquet", [TOOL_CONVERSATION])
    return tmp_path


def _conversations(path, conversations):
    sources = ["id:c"] * len(conversations)
    pl.DataFrame({"source": sources, "messages": [json.dumps(m) for m in conversations]}).write_parquet(path)


def test_bits_per_byte_is_that_of_training_and_lies_in_its_interval(root):
    """Two implementations (one total, one by blocks) must not drift apart."""
    model = small_model(TOKENIZER)
    shards = root / "artifacts/shards"
    score = compression.bits_per_byte(model, shards, TOKENIZER.bytes_per_id(), 9)
    reference = bits_per_byte(model, shards, "val", TOKENIZER.bytes_per_id(), 9)
    assert score.value == pytest.approx(reference["bpb"], rel=1e-6)
    assert score.n == reference["bytes"]
    assert score.low <= score.value <= score.high


def test_xz_gets_the_same_bytes_as_the_model(root):
    text = compression.held_out_bytes(root / "artifacts/shards", TOKENIZER, 100)
    documents = [line for line in text.decode().split("def ") if line]
    assert len(documents) == 10
    assert text.count(b"The rest is left alone.") == 10
    score = compression.bits_per_byte(small_model(TOKENIZER), root / "artifacts/shards", TOKENIZER.bytes_per_id(), 100)
    assert score.n == len(text)
    assert compression.xz_bits_per_byte(text) == 8 * len(lzma.compress(text, preset=9)) / len(text)


def test_stage_measures_every_checkpoint_and_is_deterministic(root):
    outputs = []
    for name in ("one", "two"):
        ctx = make_context(root / name, Stage.EVALUATION, SMALL)
        ctx.root = root
        stage.run(ctx)
        outputs.append(
            {str(path.relative_to(ctx.out)): path.read_bytes() for path in ctx.out.rglob("*") if path.is_file()}
        )
    times, beside = [json.loads(output.pop("latency_and_stability.json")) for output in outputs]
    assert outputs[0].pop("report.md").split(b"## Latency")[0] == outputs[1]["report.md"].split(b"## Latency")[0]
    text = outputs[1].pop("report.md").decode()
    assert outputs[0] == outputs[1]  # only measured times may differ
    scores = json.loads(outputs[0]["scores.json"])
    assert list(scores) == sorted(["pretrain", "midtrain", "sft", "rl"])
    assert set(scores["pretrain"]) == {"bits_per_byte", "multiple_choice"}
    assert set(scores["sft"]) == {"bits_per_byte", "multiple_choice", "arithmetic", "tool_call", "ends_properly"}
    for own in scores.values():
        for score in own.values():
            assert score["low"] <= score["value"] <= score["high"]
            assert score["n"] > 0
    assert scores["rl"] == scores["sft"]  # equal weights, copied scores
    assert set(times) == set(beside) == set(scores)
    for own in beside.values():  # pretrain alone has a curve, and the training of the others began with it
        assert own["loss_rise_nats"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 2}
        assert {"ttft_seconds", "seconds_per_output_token"} == set(own) - {"loss_rise_nats"}
    assert beside["rl"] == beside["sft"]
    assert "| largest rise of the training loss | nats | 0, n=2 |" in text
    assert "`rl` holds the same weights as `sft`" in text
    assert "xz -9 needs" in text
    samples = [json.loads(line) for line in outputs[0]["samples.jsonl"].decode().splitlines()]
    assert len(samples) == 2 * (SMALL.arithmetic_items + SMALL.form_items)
    assert {"plots/benchmarks.png", "plots/bits_per_byte.png", "plots/training.png"} <= set(outputs[0])
    assert all(content.startswith(b"\x89PNG") for name, content in outputs[0].items() if name.endswith(".png"))


def test_leaks_are_found_and_listed(tmp_path):
    """Every kind of leak once; and nothing where there is none."""
    problem = make_problem("leak", "held_out", "held_out")
    other = make_problem("clean", "held_out", "held_out")
    leaked = DocumentedObject("id:a", "pack.age", "class", "stdlib", "class pack.age", "Hold the Baggage of everyone.")
    clean = DocumentedObject(
        "id:b", "pack.ice", "class", "stdlib", "class pack.ice", "Freeze all the things there are."
    )
    sourced = DocumentedObject(
        "id:c", "baggage", "module", "stdlib", "module baggage", "Everything about suitcases here."
    )
    items = [Item(leaked, ("a",) * 4, 0), Item(clean, ("a",) * 4, 0), Item(sourced, ("a",) * 4, 0)]
    reply = {"role": "assistant", "content": "hold the  baggage of everyone."}
    tool = {"role": "assistant", "parts": [{"type": "python", "text": problem.expression}]}
    _conversations(
        tmp_path / "c.parquet",
        [
            [{"role": "user", "content": f"{problem.question.upper()}"}, tool],
            [{"role": "user", "content": "What is pack.age?"}, reply],
        ],
    )
    (tmp_path / "p.jsonl").write_text(json.dumps({"question": "q", "expression": "1+1"}) + "\n")
    trained = contamination.read_trained([tmp_path / "c.parquet"], [tmp_path / "p.jsonl"])
    spaced = problem.expression.replace("+", " + ").replace("*", " * ").replace("-", " - ").replace("/", " / ")
    documents = [f"as in {spaced} ,", "same"]
    written = training_text.written_expressions(documents)
    held_out = [("id:x", "same"), ("id:y", "own")]
    found = contamination.check([problem, other], items, trained, documents, held_out, written).as_json()
    assert {where: entry["items"] for where, entry in found.items()} == {
        "held-out documents equal to a training document": ["id:x"],
        "arithmetic questions in conversations": [problem.question],
        "arithmetic expressions in conversations": [problem.expression],
        "arithmetic expressions in training documents": [problem.expression],
        "held-out descriptions in conversations": ["pack.age"],
        "held-out names in conversations": ["baggage", "pack.age"],
    }
    nothing = contamination.check([other], items[1:2], trained, ["same"], [("id:y", "own")], written)
    assert nothing.total == 0


def test_model_output_cannot_break_the_report():
    sample = {
        "checkpoint": "sft", "kind": "smalltalk", "messages": [{"role": "user", "content": "a|b"}],
        "reply": "<script>x</script>\n# heading `", "tool_calls": [], "ends_properly": True,
    }  # fmt: skip
    text = report.markdown({}, {}, [sample], {}, {"xz_bits_per_byte": 2.0, "bytes": 10}, {}, [])
    assert "<script>" not in text
    assert "\n# heading" not in text


def test_a_checkpoint_of_another_tokenizer_is_refused(root):
    from tasks._errors import StageError

    meta = root / "artifacts/sft/checkpoint/meta.json"
    meta.write_text(meta.read_text().replace(TOKENIZER.sha256, "0" * 64))
    ctx = make_context(root, Stage.EVALUATION, SMALL)
    with pytest.raises(StageError, match="dvc repro sft"):
        stage.run(ctx)
