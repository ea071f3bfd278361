import json
import time

import pytest
import torch

from model import attention_probe
from model.attention_probe import fastest_attention

SHAPE = {"n_heads": 2, "n_kv_heads": 1, "head_dim": 16, "tokens": 48, "dtype": torch.float32}


@pytest.fixture(autouse=True)
def nothing_measured(monkeypatch):
    monkeypatch.setattr(attention_probe, "_chosen", {})


def test_a_probe_measures_every_path_quickly_and_only_once(tmp_path, monkeypatch):
    """The second question is answered by the process, the third, as if by another process, from the folder."""
    started = time.perf_counter()
    path, why = fastest_attention(**SHAPE, device=torch.device("cpu"), cache_folder=tmp_path)
    assert time.perf_counter() - started < 5  # a quarter of a second on an idle machine
    assert path in attention_probe.CPU_PATHS
    assert all(f"{name} " in why for name in attention_probe.CPU_PATHS) and " ms" in why
    monkeypatch.setattr(attention_probe, "_measure", lambda *shape: pytest.fail("measured again"))
    assert fastest_attention(**SHAPE, device=torch.device("cpu"), cache_folder=tmp_path)[0] == path
    attention_probe._chosen.clear()
    assert fastest_attention(**SHAPE, device=torch.device("cpu"), cache_folder=tmp_path)[0] == path


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 3}', None])
def test_a_damaged_or_foreign_cache_is_measured_over(tmp_path, monkeypatch, content):
    monkeypatch.setattr(attention_probe, "_measure", lambda *shape: {"sdpa": 1.0, "explicit": 0.5, "blocked": 0.4})
    file = tmp_path / "measured_choices.json"
    fastest_attention(**SHAPE, device=torch.device("cpu"), cache_folder=tmp_path)
    if content is None:  # well-formed, but naming a path that does not exist
        content = json.dumps({key: {"path": "magic"} for key in json.loads(file.read_text())})
    file.write_text(content)
    attention_probe._chosen.clear()
    assert fastest_attention(**SHAPE, device=torch.device("cpu"), cache_folder=tmp_path)[0] == "blocked"
    assert [entry["path"] for entry in json.loads(file.read_text()).values() if isinstance(entry, dict)] == ["blocked"]


def test_what_keeps_less_memory_wins_a_draw():
    fastest = attention_probe._fastest
    assert fastest({"sdpa": 1.0, "explicit": 0.97, "blocked": 0.96}) == "sdpa"
    assert fastest({"sdpa": 1.0, "explicit": 0.8, "blocked": 0.79}) == "explicit"
    assert fastest({"sdpa": 1.0, "explicit": 0.8, "blocked": 0.5}) == "blocked"


def test_rows_too_long_for_a_score_matrix_take_the_fused_kernel_unmeasured():
    seconds = attention_probe._measure(8, 8, 64, 8192, torch.float32)
    assert seconds == {"sdpa": 0.0} and attention_probe._fastest(seconds) == "sdpa"


def test_a_device_other_than_a_cpu_follows_the_rule():
    path, why = fastest_attention(**SHAPE, device=torch.device("mps"))
    assert (path, why) == ("sdpa", "attention sdpa: the rule for mps")
