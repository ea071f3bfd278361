"""vLLM for real: it loads the exported folder and says, greedily and in fp32, what our engine says."""

import httpx
import psutil
import pytest

from tasks.chat.server import ROOT, build_app
from tests.tasks.chat.exported import export_random_model
from tests.tasks.chat.serving import wait_until

VENV = ROOT / ".venv-vllm"
needs_vllm = pytest.mark.skipif(not (VENV / "installed").exists(), reason=".venv-vllm is absent: `make install-vllm`")

SHAPE = {"n_layers": 2, "d_model": 128, "n_heads": 2, "n_kv_heads": 1, "mlp_width": 256, "sequence_length": 256}
TEXTS = ["Hello", "What is 12 + 30?", "Zwölf 漢字", "a b c d e f", "The quick brown fox jumps", "?"]


def test_a_missing_environment_names_the_command_that_makes_it(tmp_path):
    from tasks.chat.vllm import VllmBackend

    with pytest.raises(ValueError, match="make install-vllm"):
        VllmBackend(tmp_path, "chat", 96, tmp_path / "no-venv")


@pytest.mark.vllm
@needs_vllm
def test_vllm_serves_the_export_and_agrees_with_our_engine(tmp_path):
    """Covers the whole way: our files, vLLM's loading, our proxy, stopping without orphans."""
    import uvicorn

    from model.engine.engine import Engine
    from model.engine.sampling import Sampling
    from tasks.chat.server import listen
    from tasks.chat.vllm import VllmBackend

    folder = export_random_model(tmp_path / "export", **SHAPE)
    backend = VllmBackend(folder, "chat", SHAPE["sequence_length"], VENV, "float32", max_rows=8)
    try:
        backend.wait()
        family = [backend.process.pid, *(p.pid for p in psutil.Process(backend.process.pid).children(recursive=True))]
        engine = Engine.from_folder(folder, dtype="float32")
        prompts = [[engine.tokenizer.bos_id, *engine.tokenizer.encode(text)] for text in TEXTS]
        compared = 0
        with httpx.Client(
            base_url=backend.url, headers={"Authorization": f"Bearer {backend.key}"}, timeout=60
        ) as client:
            for prompt, (ours,) in zip(prompts, engine.generate_batch(prompts, Sampling(max_tokens=64)), strict=True):
                free = ours.forced_mask.index(True) if True in ours.forced_mask else len(ours.ids)
                body = {"model": "chat", "prompt": prompt, "max_tokens": 64, "temperature": 0, "return_token_ids": True}
                answer = client.post("/v1/completions", json=body)
                assert answer.status_code == 200, answer.text
                assert answer.json()["choices"][0]["token_ids"][:free] == ours.ids[:free]
                compared += free
        assert compared >= 100
        _proxy_answers(backend, uvicorn, listen)
    finally:
        backend.stop()
    assert wait_until(lambda: not any(psutil.pid_exists(pid) for pid in family), 10)


def _proxy_answers(backend, uvicorn, listen) -> None:
    """Our routes in front of vLLM: a whole and a streamed reply, and none of vLLM's other routes."""
    import threading

    opened = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(build_app(_StayOpen(backend)), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
    thread.start()
    assert wait_until(lambda: server.started)
    parts = [{"type": "python", "text": "1+1"}, {"type": "output", "text": "2"}, {"type": "text", "text": "Two."}]
    messages = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "Two.", "parts": parts}, {"role": "user", "content": "Hi"},
    ]  # fmt: skip
    body = {"messages": messages, "max_tokens": 12, "temperature": 0, "top_k": -1}
    with httpx.Client(base_url=f"http://127.0.0.1:{opened.getsockname()[1]}", timeout=60) as client:
        whole = client.post("/v1/chat/completions", json=body)
        assert whole.status_code == 200, whole.text
        streamed = client.post("/v1/chat/completions", json={**body, "stream": True})
        assert streamed.text.rstrip().endswith("data: [DONE]")
        assert client.post("/v1/chat/completions", json={**body, "max_tokens": 10_000}).status_code == 400
        assert client.get("/metrics").status_code == 404
        assert client.get("/health").json()["backend"] == "vllm"
    server.should_exit = True
    thread.join(10)
    opened.close()


class _StayOpen:
    """The backend, not closed with the app: the test stops it itself."""

    def __init__(self, backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str):
        return getattr(self._backend, name)

    async def close(self) -> None:
        await self._backend.client.aclose()
