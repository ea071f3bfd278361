"""Requests through the engine: equality with transformers, independence of neighbours, ends, tools, text."""

import numpy as np
import pytest
import torch

from model.engine.sampling import Sampling
from tests.model.engine import tiny

GREEDY = Sampling(max_tokens=24)
PROMPTS = ["a", "The quick brown fox", "1 + 1", "x" * 40, "Zwölf Boxkämpfer", "?"]


def special(name: str) -> int:
    return tiny.tokenizer().special_id(name)


def says(text: str) -> list[int]:
    return tiny.tokenizer().encode(text)


def test_greedy_equals_transformers_generate():
    from transformers import GenerationConfig

    model, ends = tiny.transformers_model(), [special("<|assistant_end|>"), special("<|bos|>")]
    settings = GenerationConfig(max_new_tokens=24, do_sample=False, eos_token_id=ends, pad_token_id=0)
    compared = 0
    for text in PROMPTS:
        ids = tiny.prompt(text)
        with torch.inference_mode():
            expected = model.generate(torch.tensor([ids]), generation_config=settings)[0, len(ids) :].tolist()
        completion = tiny.engine().generate(ids, GREEDY)[0]
        if not any(completion.forced_mask):  # transformers knows no calculator
            assert completion.ids == expected
            compared += 1
    assert compared >= 4


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=0.9, top_k=40, top_p=0.95, seed=3, max_tokens=24)])
@pytest.mark.parametrize("max_rows", [64, 2])
def test_a_batch_of_unequal_prompts_equals_one_by_one(sampling, max_rows):
    """Catches padding, row moves and waiting prompts changing anybody's result."""
    engine = tiny.engine(max_rows=max_rows)
    prompts = [tiny.prompt(text) for text in PROMPTS]
    together = engine.generate_batch(prompts, sampling)
    assert len(together) == len(prompts)
    for ids, replies in zip(prompts, together, strict=True):
        alone = engine.generate(ids, sampling)[0]
        assert replies[0].ids == alone.ids
        assert replies[0].text == alone.text
        np.testing.assert_allclose(replies[0].logprobs, alone.logprobs, atol=1e-4)  # fp32 kernels of other batch sizes


def test_samples_of_one_prefill_equal_separate_requests():
    """Catches copied cache rows that share memory or lose a position."""
    sampling = Sampling(temperature=1.0, seed=9, max_tokens=20)
    engine = tiny.engine()
    several = engine.generate(tiny.prompt("hello"), sampling, n=4)
    again = engine.generate_batch([tiny.prompt("other and longer"), tiny.prompt("hello")], sampling, n=4)[1]
    assert [c.ids for c in several] == [c.ids for c in again]
    assert len({tuple(c.ids) for c in several}) == 4
    assert engine.generate(tiny.prompt("hello"), sampling)[0].ids == several[0].ids


def test_more_samples_than_rows_still_run():
    replies = tiny.engine(max_rows=2).generate_batch([tiny.prompt("a"), tiny.prompt("b")], GREEDY, n=5)
    assert [len(r) for r in replies] == [5, 5]


def test_the_stream_is_the_completion():
    sampling = Sampling(temperature=1.0, seed=4, max_tokens=30)
    events = list(tiny.engine().stream(tiny.prompt("hi"), sampling))
    completion = tiny.engine().generate(tiny.prompt("hi"), sampling)[0]
    assert [e.token_id for e in events] == completion.ids
    assert "".join(e.text for e in events) == completion.text
    assert [e.finish_reason for e in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1].finish_reason == completion.finish_reason


def test_logprobs_are_those_of_the_untempered_model():
    ids = tiny.prompt("hi")
    completion = tiny.engine().generate(ids, Sampling(temperature=2.0, seed=1, max_tokens=8))[0]
    with torch.inference_mode():
        logits = tiny.transformers_model()(torch.tensor([ids + completion.ids])).logits[0]
    expected = torch.log_softmax(logits, -1)[len(ids) - 1 : -1].gather(1, torch.tensor(completion.ids)[:, None])[:, 0]
    free = [not forced for forced in completion.forced_mask]
    np.testing.assert_allclose(np.array(completion.logprobs)[free], expected.numpy()[free], atol=1e-4)


def test_the_end_token_ends_the_reply_and_is_not_shown():
    completion = tiny.scripted([*says("Yes."), special("<|assistant_end|>"), *says("never")]).generate(
        tiny.prompt("?")
    )[0]
    assert (completion.text, completion.finish_reason) == ("Yes.", "stop")
    assert completion.ids[-1] == special("<|assistant_end|>")


def test_the_calculator_forces_its_result_into_the_sequence():
    script = [*says("It is "), special("<|python_start|>"), *says("12*34"), special("<|python_end|>")]
    engine = tiny.scripted([*script, *says("~" * 5), *says("so 408"), special("<|assistant_end|>")])
    completion = engine.generate(tiny.prompt("12*34?"))[0]
    forced = [special("<|output_start|>"), *says("408"), special("<|output_end|>")]
    assert completion.ids[len(script) : len(script) + 5] == forced
    assert [i for i, f in zip(completion.ids, completion.forced_mask, strict=True) if f] == forced
    assert completion.tool_calls == [("12*34", "408")]
    assert completion.text == "It is so 408"
    assert all(logprob == 0.0 for logprob, f in zip(completion.logprobs, completion.forced_mask, strict=True) if f)
    fed = [ids[0] for ids in engine.forward.fed]
    assert fed[len(script) : len(script) + 5] == forced  # the model was given them, not only the reader


def test_a_refused_expression_forces_nothing():
    script = [special("<|python_start|>"), *says("9**9**9"), special("<|python_end|>"), *says("?"), special("<|bos|>")]
    completion = tiny.scripted(script).generate(tiny.prompt("x"))[0]
    assert completion.ids == script
    assert completion.tool_calls == [("9**9**9", None)]
    assert completion.text == "?"


def test_special_tokens_never_appear_in_visible_text():
    """Also those that make no sense where the model puts them."""
    names = ["<|user_start|>", "<|output_end|>", "<|python_end|>", "<|assistant_start|>", "<|output_start|>"]
    script = [t for name in names for t in (special(name), *says("ok"))]
    completion = tiny.scripted([*script, special("<|assistant_end|>")]).generate(tiny.prompt("x"))[0]
    assert completion.text == "okokokok"  # the last "ok" follows <|output_start|>
    assert completion.tool_calls == []


@pytest.mark.parametrize("stop", [("END",), ("ND", "nothing"), ("D", "END")])
def test_stop_strings_work_across_token_borders(stop):
    """Every byte is one token here, so "END" arrives in three pieces."""
    events = list(tiny.scripted(says("helloEND and more")).stream(tiny.prompt("x"), Sampling(stop=stop)))
    shown = "".join(e.text for e in events)
    assert shown == "helloEND"[: min("helloEND".find(s) for s in stop if s in "helloEND")]
    assert events[-1].finish_reason == "stop"


def test_text_held_back_for_a_stop_string_is_shown_at_the_end():
    completion = tiny.scripted([*says("heEN"), special("<|assistant_end|>")]).generate(
        tiny.prompt("x"), Sampling(stop=("END",))
    )
    assert completion[0].text == "heEN"


def test_streamed_text_never_ends_inside_a_character():
    events = list(tiny.scripted([*says("naïve 漢字 🙂"), special("<|bos|>")]).stream(tiny.prompt("x")))
    assert "".join(e.text for e in events) == "naïve 漢字 🙂"
    assert not any("\ufffd" in e.text for e in events)


def test_a_character_cut_off_by_the_length_limit_is_marked():
    completion = tiny.scripted(says("漢")).generate(tiny.prompt("x"), Sampling(max_tokens=2))[0]
    assert (completion.text, completion.finish_reason) == ("\ufffd", "length")


def test_max_tokens_counts_forced_tokens():
    script = [special("<|python_start|>"), *says("1+1"), special("<|python_end|>"), *says("x" * 20)]
    completion = tiny.scripted(script).generate(tiny.prompt("x"), Sampling(max_tokens=6))[0]
    assert len(completion.ids) == 6
    assert completion.finish_reason == "length"


def test_prompt_and_reply_fill_the_context_exactly():
    context = tiny.config().sequence_length
    completion = tiny.scripted(says("y")).generate(tiny.prompt("x" * (context - 11)), Sampling(max_tokens=500))[0]
    assert (len(completion.ids), completion.finish_reason) == (10, "length")
    assert len(tiny.engine().generate([1] * (context - 1), Sampling(max_tokens=500))[0].ids) == 1


def test_a_prompt_that_leaves_no_room_is_refused_with_numbers():
    with pytest.raises(ValueError, match=r"96 tokens.*context is 96"):
        tiny.engine().generate([1] * 96)


@pytest.mark.parametrize("ids", [[], [-1], [10**6]])
def test_impossible_prompts_are_refused(ids):
    with pytest.raises(ValueError, match="prompt"):
        tiny.engine().generate(ids)


def test_finished_rows_leave_the_batch():
    engine = tiny.engine()
    batch = engine.new_batch()
    rows = [engine.new_rows(tiny.prompt("a"), Sampling(max_tokens=n))[0] for n in (2, 5, 9)]
    batch.add([tiny.prompt("a")] * 3, [[row] for row in rows])
    sizes = [len(batch)]
    while len(batch):
        batch.step()
        sizes.append(len(batch))
    assert sizes == [3, 2, 2, 2, 1, 1, 1, 1, 0]
    assert batch.cache.lengths == []


def test_cancelling_a_row_leaves_the_others_as_they_were():
    engine = tiny.engine()
    batch = engine.new_batch()
    prompts = [tiny.prompt(text) for text in PROMPTS[:3]]
    rows = [engine.new_rows(ids, GREEDY)[0] for ids in prompts]
    batch.add(prompts, [[row] for row in rows])
    batch.step()
    batch.cancel(rows[0])
    batch.cancel(rows[0])  # twice does no harm
    while len(batch):
        batch.step()
    assert rows[0].finish_reason is None
    for ids, row in list(zip(prompts, rows, strict=True))[1:]:
        assert row.completion().ids == engine.generate(ids, GREEDY)[0].ids


def test_fp16_and_a_foreign_tokenizer_are_refused():
    with pytest.raises(ValueError, match="float16"):
        tiny.engine(dtype="float16")
    from model.engine.engine import Engine

    with pytest.raises(ValueError, match="belong together"):
        Engine(tiny.transformers_model().state_dict(), tiny.config(vocab_size=64), tiny.tokenizer())


def test_an_engine_of_a_training_model_does_not_follow_its_later_updates():
    """Rollouts must come from one policy: the weights are copied."""
    from model.engine.engine import Engine
    from model.gpt import GPT

    model = GPT(tiny.config())
    model.load_state_dict(tiny.transformers_model().state_dict())
    engine = Engine.from_model(model, tiny.tokenizer(), dtype="float32")
    before = engine.generate(tiny.prompt("a"), GREEDY)[0].ids
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert (
        engine.generate(tiny.prompt("a"), GREEDY)[0].ids
        == before
        == tiny.engine().generate(tiny.prompt("a"), GREEDY)[0].ids
    )
