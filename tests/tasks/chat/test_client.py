"""The terminal client, fed from a list of lines."""

import json

import pytest

from tasks.chat import client
from tests.model.engine import tiny
from tests.tasks.chat.serving import serve


def special(name: str) -> int:
    return tiny.tokenizer().special_id(name)


def script() -> list[int]:
    encode = tiny.tokenizer().encode
    call = [special("<|python_start|>"), *encode("6*7"), special("<|python_end|>"), *encode("~~~~")]
    return [*encode("So: "), *call, *encode(" \x1b[2J."), special("<|assistant_end|>")]


@pytest.fixture
def lines(monkeypatch):
    queue: list[str] = []

    def read(prompt: str = "") -> str:
        if not queue:
            raise EOFError
        return queue.pop(0)

    monkeypatch.setattr("builtins.input", read)
    return queue


def local() -> client.LocalSpeaker:
    speaker = client.LocalSpeaker.__new__(client.LocalSpeaker)
    speaker.engine = tiny.scripted(script())
    return speaker


def test_replies_show_the_calculation_and_no_terminal_commands(lines, capsys):
    lines += ["what is 6*7?", "/quit"]
    session = client.Session(temperature=0.0)
    assert client.chat(local(), session) == 0
    assert "So: [6*7 = 42] [2J." in capsys.readouterr().out  # the escape character is gone
    kinds = [part["type"] for part in session.messages[1]["parts"]]
    assert kinds == ["text", "python", "output", "text"]


def test_a_server_gives_the_same_session_as_the_local_engine():
    sessions = [client.Session(temperature=0.0, max_tokens=40) for _ in range(2)]
    client.speak(local(), sessions[0], "hi")
    with serve(tiny.scripted(script())) as server:
        client.speak(client.RemoteSpeaker(server.url + "/v1", None), sessions[1], "hi")
    assert sessions[0].messages == sessions[1].messages


def test_commands_change_the_session_and_report_mistakes(lines, capsys, tmp_path):
    lines += ["/temperature 0", "/temperature 9", "/max 7", "/max x", "/seed 3", "/system Be brief.", "/unknown", "hi"]
    lines += [f"/save {tmp_path / 'talk.json'}", "/reset"]
    session = client.Session()
    assert client.chat(local(), session) == 0
    assert (session.temperature, session.max_tokens, session.seed, session.system) == (0.0, 7, 3, "Be brief.")
    assert session.messages == []
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert [m["role"] for m in saved] == ["system", "user", "assistant"]
    captured = capsys.readouterr()
    assert "allowed: 0 to 2" in captured.err
    assert "/unknown is unknown" in captured.out


def test_a_message_without_a_reply_is_withdrawn(capsys):
    """Catches a session that can never continue because one message was too long."""
    session = client.Session()
    assert not client.speak(local(), session, "x" * 500)
    assert session.messages == []
    assert "context" in capsys.readouterr().err
    assert not client.speak(client.RemoteSpeaker("http://127.0.0.1:9", None), session, "hi")
    assert session.messages == []


def test_a_single_question_from_the_command_line(capsys, tmp_path):
    from tests.tasks.chat.exported import export_random_model

    folder = export_random_model(tmp_path / "model")
    assert client.main(["--model", str(folder), "--prompt", "hi", "--max-tokens", "4", "--seed", "1"]) == 0
    assert client.main(["--model", str(tmp_path / "none"), "--prompt", "hi"]) == 1
    assert "next:" in capsys.readouterr().err
