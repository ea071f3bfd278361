"""The server over real HTTP: replies, streams, limits, refusals, disconnects."""

import concurrent.futures
import json
import socket
import time

import httpx
import pytest

from model.engine.sampling import Sampling
from tasks._errors import StageError
from tasks.chat import guard
from tasks.chat.server import build_app, listen, main
from tests.model.engine import tiny
from tests.tasks.chat.serving import Running, serve, wait_until


@pytest.fixture(scope="module")
def server():
    with serve(tiny.engine()) as running:
        yield running


def events(response: httpx.Response) -> list[dict]:
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def says(text: str) -> list[int]:
    return tiny.tokenizer().encode(text)


def special(name: str) -> int:
    return tiny.tokenizer().special_id(name)


def calculating() -> list[int]:
    call = [special("<|python_start|>"), *says("6*7"), special("<|python_end|>")]
    return [*says("It is "), *call, *says("~~~~"), *says("42."), special("<|assistant_end|>")]


def test_a_reply_is_what_the_engine_generates(server):
    """Catches a server that renders the prompt or reads the sampling fields differently from the engine's callers."""
    from model.chat_format import render_prompt

    answer = server.chat("hi", "hello", "more", seed=5, temperature=0.9, top_k=30, top_p=0.9, max_tokens=12).json()
    messages = [{"role": r, "content": c} for r, c in (("user", "hi"), ("assistant", "hello"), ("user", "more"))]
    prompt = render_prompt(tiny.tokenizer(), messages)
    expected = tiny.engine().generate(prompt, Sampling(0.9, 30, 0.9, 5, 12))[0]
    choice = answer["choices"][0]
    assert choice["message"]["content"] == expected.text
    assert choice["finish_reason"] == expected.finish_reason
    assert answer["usage"] == {
        "prompt_tokens": len(prompt),
        "completion_tokens": len(expected.ids),
        "total_tokens": len(prompt) + len(expected.ids),
    }


def test_the_stream_adds_up_to_the_whole_reply(server):
    fields = {"seed": 2, "temperature": 1.0, "max_tokens": 20, "n": 3}
    whole = server.chat("hi", **fields).json()
    response = server.chat("hi", stream=True, stream_options={"include_usage": True}, **fields)
    assert response.headers["content-type"].startswith("text/event-stream")
    received = events(response)
    assert received[-1]["usage"] == whole["usage"]
    for number in range(3):
        chunks = [c for event in received for c in event["choices"] if c["index"] == number]
        text = "".join(c["delta"].get("content", "") for c in chunks)
        assert text == whole["choices"][number]["message"]["content"]
        assert chunks[-1]["finish_reason"] == whole["choices"][number]["finish_reason"]


def test_calculator_calls_come_as_parts_and_go_back_into_the_next_turn():
    from model.chat_format import render_prompt

    with serve(tiny.scripted(calculating())) as server:
        message = server.chat("6*7?", max_tokens=40).json()["choices"][0]["message"]
        assert message["content"] == "It is 42."
        kinds = [(part["type"], part["text"]) for part in message["parts"]]
        assert kinds == [("text", "It is "), ("python", "6*7"), ("output", "42"), ("text", "42.")]
        deltas = [c["delta"] for e in events(server.chat("6*7?", stream=True, max_tokens=40)) for c in e["choices"]]
        assert [p for d in deltas for p in d.get("parts", [])] == message["parts"][1:3]
        turns = [{"role": "user", "content": "6*7?"}, message, {"role": "user", "content": "ok"}]
        answer = server.client.post("/v1/chat/completions", json={"messages": turns, "max_tokens": 1}).json()
        plain = [turns[0], {"role": "assistant", "parts": message["parts"]}, turns[2]]
        assert answer["usage"]["prompt_tokens"] == len(render_prompt(tiny.tokenizer(), plain))


def test_stop_strings_and_completions(server):
    with serve(tiny.scripted(says("helloEND and more"))) as scripted:
        choice = scripted.chat("x", stop=["END"], max_tokens=20).json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("hello", "stop")
    text = server.client.post("/v1/completions", json={"prompt": "ab", "max_tokens": 5, "temperature": 0}).json()
    ids = [tiny.tokenizer().bos_id, *says("ab")]
    expected = tiny.engine().generate(ids, Sampling(max_tokens=5))[0]
    assert text["choices"][0]["text"] == expected.text
    again = server.client.post("/v1/completions", json={"prompt": ids, "max_tokens": 5, "temperature": 0}).json()
    assert again["choices"][0]["text"] == expected.text


def test_requests_at_once_get_the_replies_they_would_get_alone(server):
    """Catches events delivered to the wrong request while they share a batch."""
    texts = [f"question {i}" * (i % 3 + 1) for i in range(10)]

    def ask(text: str) -> str:
        return server.chat(text, seed=1, temperature=1.0, max_tokens=25).json()["choices"][0]["message"]["content"]

    alone = [ask(text) for text in texts]
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        assert list(pool.map(ask, texts)) == alone
    assert len(set(alone)) > 5


@pytest.mark.parametrize(
    ("texts", "fields", "status", "said"),
    [
        (("x" * 200,), {}, 400, "context is 96"),
        (("a", "b"), {}, 400, "must end with a user message"),
        (("  ",), {}, 400, "content is empty"),
        (("a",), {"model": "gpt-4"}, 404, "'chat'"),
        (("a",), {"temperature": 9}, 400, "temperature"),
    ],
)
def test_refusals_say_what_is_allowed(server, texts, fields, status, said):
    response = server.chat(*texts, **fields)
    assert response.status_code == status
    assert said in response.json()["error"]["message"]
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_the_context_error_has_the_code_clients_look_for(server):
    assert server.chat("x" * 200).json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff\xfe", b'{"messages": NaN}', b"[" * 100_000])
def test_bodies_that_are_no_request_get_400(server, body):
    response = server.client.post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_large_bodies_are_refused_declared_or_not(server):
    """Closing over unread bytes resets the connection: one run in many saw that instead of the 413."""
    large = b" " * (guard.MAX_BODY_BYTES + 1)
    for _ in range(20):
        assert server.client.post("/v1/chat/completions", content=large * 4).status_code == 413
    assert server.client.post("/v1/chat/completions", content=large).status_code == 413
    pieces = (large[:300_000] for _ in range(5))
    assert server.client.post("/v1/chat/completions", content=pieces).status_code == 413


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
def test_other_hosts_and_origins_are_refused(server, headers):
    """Catches DNS rebinding and pages of other sites talking to the local model."""
    assert server.client.get("/v1/models", headers=headers).status_code == 403


def test_the_own_page_is_allowed_and_carries_its_policy(server):
    response = server.client.get("/", headers={"Origin": server.url})
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert server.client.get("/app.js").headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/../server.py", "/page/app.js", "/v1/embeddings"])
def test_nothing_else_is_reachable(server, path):
    assert server.client.get(path).status_code == 404


def test_a_public_address_needs_a_key_and_the_key_is_checked():
    with pytest.raises(StageError, match="ZERO2CHAT_API_KEY"):
        build_app(None, host="0.0.0.0")  # type: ignore[arg-type]
    with serve(tiny.engine(), api_key="secret", host="0.0.0.0") as server:
        assert server.client.get("/health").status_code == 200
        assert server.client.get("/v1/models").status_code == 401
        assert server.chat("hi").status_code == 401
        right = {"Authorization": "Bearer secret"}
        assert server.client.get("/v1/models", headers=right).status_code == 200
        assert server.client.get("/v1/models", headers={"Authorization": "Bearer sécret".encode()}).status_code == 401


def slow_engine() -> object:
    """An engine whose steps take 20 ms, so that a reply lasts as long as the test needs it to."""
    made = tiny.scripted(says("y"))
    decode = made.forward.decode

    def slowly(ids, cache):
        time.sleep(0.02)
        return decode(ids, cache)

    made.forward.decode = slowly  # type: ignore[method-assign]
    made.max_rows = 1
    return made


@pytest.mark.parametrize("stream", [True, False])
def test_a_reply_nobody_reads_any_more_is_given_up(stream):
    """Catches a client that left keeping the engine busy to the end of its reply."""
    with serve(slow_engine()) as server:  # type: ignore[arg-type]
        body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 80, "stream": stream})
        with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall((head + body).encode())
            assert wait_until(lambda: server.backend.worker.counts()["running"] == 1)
        started = time.monotonic()
        assert wait_until(lambda: server.backend.worker.counts()["running"] == 0, 1.2)  # the whole reply takes 1.6 s
        assert time.monotonic() - started < 1.2


def test_a_full_queue_answers_429_and_then_serves_again():
    with serve(slow_engine(), max_waiting=1) as server, concurrent.futures.ThreadPoolExecutor(2) as pool:  # type: ignore[arg-type]
        first = pool.submit(server.chat, "a", max_tokens=40)
        assert wait_until(lambda: server.backend.worker.counts()["running"] == 1)
        second = pool.submit(server.chat, "b", max_tokens=2)
        assert wait_until(lambda: server.backend.worker.counts()["waiting"] == 1)
        refused = server.chat("c", max_tokens=2)
        assert refused.status_code == 429
        assert "waiting" in refused.json()["error"]["message"]
        assert [first.result().status_code, second.result().status_code] == [200, 200]


def test_a_request_that_breaks_the_engine_does_not_stop_the_server():
    made = tiny.engine()
    honest, broken = made.forward.prefill, []

    def prefill(prompts, cache, row):
        if not broken:
            broken.append(1)
            raise RuntimeError("the device is out of memory")
        return honest(prompts, cache, row)

    made.forward.prefill = prefill  # type: ignore[method-assign]
    with serve(made) as server:
        failed = server.chat("a", max_tokens=3)
        assert failed.status_code == 500
        assert "out of memory" in failed.json()["error"]["message"]
        assert server.chat("a", max_tokens=3).status_code == 200
        broken.clear()
        assert '"error"' in server.chat("a", max_tokens=3, stream=True).text


def test_health_and_models(server: Running):
    assert server.client.get("/health").json()["status"] == "ok"
    assert [m["id"] for m in server.client.get("/v1/models").json()["data"]] == ["chat"]


def test_a_port_in_use_is_one_clear_message(capsys):
    with listen("127.0.0.1", 0) as opened:
        port = opened.getsockname()[1]
        assert main(["--port", str(port), "--model", "does-not-matter"]) == 1
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert all(text in error for text in (f"port {port}", "in use", "--port"))


def test_a_missing_model_is_one_clear_message(capsys, tmp_path):
    assert main(["--port", "0", "--model", str(tmp_path)]) == 1
    assert "model.safetensors" in capsys.readouterr().err
