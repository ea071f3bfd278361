import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.chat.schema import ChatRequest, CompletionRequest, RequestError, parse

HELLO = [{"role": "user", "content": "hello"}]


def refusal(body: object, schema: type = ChatRequest) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse(schema, body)
    assert caught.value.status == 400
    return caught.value


def test_what_openai_clients_send_is_accepted():
    body = {
        "model": "chat",
        "messages": [{"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}, *HELLO],
        "temperature": 0.3, "top_p": 0.9, "n": 2, "stream": True, "stream_options": {"include_usage": True},
        "stop": "x", "max_completion_tokens": 5, "seed": -4, "user": "me", "presence_penalty": 0, "logit_bias": {},
        "tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "logprobs": False, "top_k": -1,
        "metadata": {"a": "b"},
    }  # fmt: skip
    request = parse(ChatRequest, body)
    assert [m.plain()["role"] for m in request.messages] == ["system", "user"]
    assert request.messages[0].plain()["content"] == "Be brief."
    assert request.stops == ("x",)


def test_what_would_be_ignored_is_refused_by_name():
    """Catches a request answered as if it had not asked for the penalty, the tool or the JSON format."""
    for name, value in {
        "presence_penalty": 1, "logit_bias": {"5": 100}, "logprobs": True, "tools": [{"type": "function"}],
        "response_format": {"type": "json_object"},
    }.items():  # fmt: skip
        assert f"{name}=" in refusal({"messages": HELLO, name: value}).message


def test_unknown_fields_list_the_known_ones():
    problem = refusal({"messages": HELLO, "temprature": 0.2})
    assert problem.param == "temprature"
    assert "temperature" in problem.message


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"temperature": 3}, "temperature"), ({"temperature": float("nan")}, "temperature"), ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"), ({"n": 1000}, "n"), ({"max_tokens": 0}, "max_tokens"), ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 9}, "stop"), ({"messages": []}, "messages"), ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"), ({"messages": HELLO * 501}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 200_001}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"stream_options": {"x": 1}}, "stream_options"), ({"seed": 2**70}, "seed"),
        ({"temperature": "hot"}, "temperature"),
    ],
)  # fmt: skip
def test_impossible_values_are_refused_by_field(change, named):
    assert named in refusal({"messages": HELLO, **change}).message


@pytest.mark.parametrize("body", [None, [], "text", 3])
def test_only_objects_are_requests(body):
    refusal(body)


def test_completions_take_text_or_ids():
    assert parse(CompletionRequest, {"prompt": "a"}).prompt == "a"
    assert parse(CompletionRequest, {"prompt": [1, 2]}).prompt == [1, 2]
    refusal({"prompt": []}, CompletionRequest)
    refusal({"prompt": ["a", "b"]}, CompletionRequest)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # the first texts drawn in a clone build tables
@given(st.dictionaries(st.sampled_from(sorted(ChatRequest.model_fields)), json_values, max_size=6))
def test_any_json_is_accepted_or_refused_but_never_crashes(body):
    with contextlib.suppress(RequestError):
        parse(ChatRequest, body)
