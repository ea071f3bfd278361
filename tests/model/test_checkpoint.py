import json

import pytest
import torch
from safetensors import safe_open

from model import state_files
from model.checkpoint import load_state, load_state_info, load_weights, save_state, save_weights
from tests.model.test_gpt import randomised, small_config


def test_weights_survive_and_carry_the_names_of_transformers(tmp_path):
    model = randomised(small_config())
    save_weights(tmp_path / "checkpoint", model, {"stage": "pretrain", "step": 3})
    again, meta = load_weights(tmp_path / "checkpoint")
    assert meta == {"stage": "pretrain", "step": 3}
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    with safe_open(tmp_path / "checkpoint" / "model.safetensors", "pt") as file:
        assert "model.layers.1.self_attn.q_proj.weight" in file.keys()  # noqa: SIM118 - not a mapping
        assert len(file.keys()) == 6 * 2 + 2


def test_a_config_that_does_not_fit_the_tensors_is_refused(tmp_path):
    folder = tmp_path / "checkpoint"
    save_weights(folder, randomised(small_config()), {})
    small_config(mlp_width=128).to_json(folder / "config.json")
    with pytest.raises(ValueError, match=r"mlp.fc1.weight \(256, 64\) instead of \(128, 64\)"):
        load_weights(folder)
    (folder / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_weights(folder)


def test_only_the_newest_states_are_kept_and_the_last_is_read(tmp_path):
    assert load_state(tmp_path) is None
    for step in (5, 9, 10, 100):
        save_state(tmp_path, step, {"x": torch.tensor([float(step)])}, {"step": step})
    assert len(list(tmp_path.iterdir())) == 2
    tensors, info = load_state(tmp_path)
    assert (tensors["x"].item(), info["step"]) == (100.0, 100)


def test_a_kill_while_writing_leaves_the_previous_state(tmp_path, monkeypatch):
    """Bug it catches: writing to the final name; the half-written newest state would be read."""
    save_state(tmp_path, 1, {"x": torch.ones(2)}, {"step": 1})

    def killed(path, content):
        path.write_text('{"step": 2')
        raise KeyboardInterrupt

    monkeypatch.setattr(state_files, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        save_state(tmp_path, 2, {"x": torch.zeros(2)}, {"step": 2})
    monkeypatch.undo()
    assert load_state_info(tmp_path) == {"step": 1}
    save_state(tmp_path, 2, {"x": torch.zeros(2)}, {"step": 2})
    assert load_state_info(tmp_path) == {"step": 2}


def test_saving_a_step_twice_never_removes_the_first_before_the_second_is_there(tmp_path):
    first = save_state(tmp_path, 7, {"x": torch.ones(1)}, {"evaluated": False})
    second = save_state(tmp_path, 7, {"x": torch.ones(1)}, {"evaluated": True})
    assert first != second
    assert first.exists()
    assert load_state_info(tmp_path) == {"evaluated": True}


def test_floats_in_the_state_keep_every_bit(tmp_path):
    value = 0.1 + 0.2 + 1e-17
    save_state(tmp_path, 1, {"x": torch.ones(1)}, {"loss": value})
    assert json.loads(json.dumps(load_state_info(tmp_path)))["loss"] == value
