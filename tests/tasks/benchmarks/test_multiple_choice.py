"""Multiple choice: honest items, and log-likelihoods that equal a plain computation."""

import pytest
import torch

from model.gpt import GPT, GPTConfig
from model.tokenizer import Tokenizer, byte_tokenizer_json
from tasks.benchmarks.documentation import DocumentedObject, ask, describe
from tasks.benchmarks.multiple_choice import choose, log_likelihoods, make_items, requests
from tasks.benchmarks.normal import normal

OBJECTS = [
    DocumentedObject(
        f"id{n}", f"package.name{n}", "function", "stdlib", f"def package.name{n}()", f"Description no. {n}."
    )
    for n in range(9)
]


def test_items_have_their_own_description_once_and_four_different_choices():
    items, left_out = make_items(OBJECTS, "", 9, seed=0)
    assert len(items) == 9
    assert left_out == []
    for item in items:
        assert item.choices[item.gold] == item.object.description
        assert len(set(item.choices)) == 4
    assert len({item.gold for item in items}) > 1


def test_descriptions_that_training_text_gives_away_are_left_out_and_named():
    items, left_out = make_items(OBJECTS, normal("before  DESCRIPTION no. 4. after"), 9, seed=0)
    assert left_out == ["package.name4"]
    assert all(item.object.name != "package.name4" for item in items)
    assert len(items) == 8


@pytest.fixture(scope="module")
def model():
    config = GPTConfig(
        vocab_size=320, n_layers=1, d_model=32, n_heads=1, n_kv_heads=1, mlp_width=64, sequence_length=64
    )
    model = GPT(config, compute_dtype="float32")
    model.init_weights(0)
    with torch.no_grad():
        model.lm_head.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    return model


def test_log_likelihood_equals_a_plain_computation(model):
    """Catches an off-by-one between hidden state and target, padding that leaks into a score, and lost order."""
    pairs = [([1, 2, 3], [4, 5]), ([7], [8, 9, 10, 11]), ([1] * 20, [30])]
    found = log_likelihoods(model, pairs, rows_per_batch=2)
    for (context, continuation), value in zip(pairs, found, strict=True):
        with torch.no_grad():
            logits = model.logits(model(torch.tensor([context + continuation])))[0].log_softmax(-1)
        expected = sum(float(logits[len(context) + i - 1, token]) for i, token in enumerate(continuation))
        assert value == pytest.approx(expected, abs=1e-4)


def test_a_context_too_long_loses_its_start(model):
    long = log_likelihoods(model, [([5] * 200, [6, 7])])[0]
    assert long == pytest.approx(log_likelihoods(model, [([5] * 63, [6, 7])])[0], abs=1e-4)


def test_choice_is_by_log_likelihood_per_character():
    """Catches a sum that favours short choices."""
    item = make_items(OBJECTS, "", 1, seed=0)[0][0]
    item = type(item)(item.object, ("ab", "abcdefghij", "xy", "zz"), 1)
    assert choose(item, [-3.0, -5.0, -9.0, -9.0]) == 1


def test_plain_and_chat_requests_contain_the_choices():
    tokenizer = Tokenizer.from_json(byte_tokenizer_json())
    item = make_items(OBJECTS, "", 1, seed=0)[0][0]
    for chat in (False, True):
        found = requests(item, tokenizer, chat)
        assert [tokenizer.decode(continuation) for _, continuation in found] == list(item.choices)
        assert len({tuple(context) for context, _ in found}) == 1
    chat_text = tokenizer.decode(requests(item, tokenizer, True)[0][0])
    assert ask(item.object, "held_out", 0) in chat_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def a.b(x)\n\nReturn the sum of all\nvalues. More text.", ("def a.b(x)", "Return the sum of all values.")),
        ("def a.b(x)\n\nReads e.g. a file and returns it", ("def a.b(x)", "Reads e.g. a file and returns it")),
        ("def a.b(x)\n\nToo short.", None),
        ("def a.b(x)\n\n>>> a.b(1) is an example of its use", None),
        ("def a.b(x)\n\n" + "long " * 60, None),
        ("def a.b(x)", None),
    ],
)
def test_description_is_the_first_sentence(text, expected):
    assert describe(text) == expected
