"""The picture of a run's curves: a panel for what is there, none for what is not, the later of two equal steps."""

import re

import pytest

from tasks._curve_plots import training_curves

COLUMNS = {
    "loss": 3.0, "val_nats": 3.1, "val_bpb": 1.2, "lr_matrices": 0.02, "lr_head": 0.008, "grad_norm_matrices": 0.3,
    "update_ratio_matrices": 1e-3, "tokens_per_second": 1e4, "mfu": 0.3, "data_wait_share": 0.01,
}  # fmt: skip


def words(path):
    """Texts of the picture, as they stand in the file."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())


def test_every_column_has_its_panel(tmp_path):
    path = tmp_path / "curves.svg"
    rows = [{"step": step, "tokens": 10 * step, **COLUMNS} for step in (1, 2, 3)]
    assert training_curves(rows, path, "pretrain")
    shown = words(path)
    titles = {
        "loss, nats per token", "held out, bits per byte", "learning rate (log)", "norm of the gradient (log)",
        "update / weight (log)", "tokens per second", "share of time",
    }  # fmt: skip
    assert titles <= set(shown) and "pretrain" in shown
    assert {"training", "held out", "matrices", "head", "MFU", "wait for data"} <= set(shown)
    assert not any("mathdefault" in text for text in shown)


def test_older_curves_have_the_panels_they_can_fill(tmp_path):
    """Text, as csv gives it, cells that are empty, and one learning rate without a name."""
    path = tmp_path / "curves.svg"
    rows = [{"step": "1", "loss": "3.0", "lr": "0.02", "val_bpb": ""}, {"step": "2", "loss": "nan", "lr": "0.02"}]
    assert training_curves(rows, path, "sft")
    assert {"loss, nats per token", "learning rate (log)"} <= set(words(path))
    assert not {"held out, bits per byte", "share of time"} & set(words(path))


@pytest.mark.parametrize("rows", [[], [{"step": 1, "tokens": 5}], [{"loss": 3.0}], [{"step": 1, "loss": float("inf")}]])
def test_nothing_to_draw_writes_nothing(tmp_path, rows):
    assert not training_curves(rows, tmp_path / "curves.svg", "pretrain")
    assert list(tmp_path.iterdir()) == []


def test_a_logarithmic_panel_without_anything_above_zero_is_left_out(tmp_path):
    """A policy whose groups teach nothing has gradients of exactly zero."""
    path = tmp_path / "curves.svg"
    assert training_curves([{"step": s, "loss": 1.0, "grad_norm_all": 0.0} for s in (1, 2)], path, "rl")
    assert not {"norm of the gradient (log)"} & set(words(path))


def test_a_step_that_was_trained_again_is_drawn_once(tmp_path):
    once, twice = tmp_path / "once" / "curves.svg", tmp_path / "twice" / "curves.svg"
    kept = [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 3.0}, {"step": 3, "loss": 2.0}]
    training_curves(kept, once, "pretrain")
    training_curves([kept[0], {"step": 2, "loss": 9.0}, {"step": 3, "loss": 99.0}, *kept[1:]], twice, "pretrain")
    assert once.read_text() == twice.read_text()
