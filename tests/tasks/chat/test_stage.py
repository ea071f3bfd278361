"""The chat stage with a real server process."""

import json

import psutil
import pytest

from tasks._errors import StageError
from tasks.chat import stage
from tasks.stages import Stage
from tests.stage_context import make_context
from tests.tasks.chat.exported import export_random_model


def servers() -> list[int]:
    return [p.pid for p in psutil.Process().children(recursive=True) if "tasks.chat.server" in " ".join(p.cmdline())]


def test_the_conversation_is_held_written_down_and_the_server_is_gone(tmp_path):
    export_random_model(tmp_path / "artifacts/export")
    params = stage.Params(questions=("Hi", "1+1?"), max_tokens=10)
    context = make_context(tmp_path, Stage.CHAT, params)
    stage.run(context)
    written = json.loads((context.out / "conversation.json").read_text())
    assert [m["role"] for m in written["messages"]] == ["user", "assistant"] * 2
    assert "time" not in json.dumps(written)  # equal runs give equal files
    assert "1+1?" in (context.out / "conversation.md").read_text()
    assert context.figures["replies"] == 2
    assert servers() == []


def test_a_question_that_does_not_fit_is_explained_and_leaves_no_server(tmp_path):
    export_random_model(tmp_path / "artifacts/export")
    context = make_context(tmp_path, Stage.CHAT, stage.Params(questions=("x" * 300,)))
    with pytest.raises(StageError, match=r"context is 96.*chat\.questions"):
        stage.run(context)
    assert servers() == []


def test_a_server_that_cannot_start_is_quoted(tmp_path):
    (tmp_path / "artifacts/export").mkdir(parents=True)
    with pytest.raises(StageError, match=r"no model\.safetensors"):
        stage.run(make_context(tmp_path, Stage.CHAT, stage.Params()))


def test_broken_replies_fail_the_stage():
    good = {
        "content": "a",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
    stage.check([good])
    for change in (
        {"finish_reason": None}, {"content": "<|user_start|>"},
        {"usage": {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1}},
    ):  # fmt: skip
        with pytest.raises(StageError, match="reply 1"):
            stage.check([{**good, **change}])
