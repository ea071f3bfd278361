"""What a training run was like, from its result and its curve."""

from types import SimpleNamespace

import pytest

from tasks._training_report import how_it_went


def result(curve=(), **changes):
    return SimpleNamespace(
        **{"skipped_steps": 0, "rollbacks": 0, "tokens_per_second": 2000.0, "curve": curve, **changes}
    )


def row(tokens, tokens_per_second, wait, **norms):
    return {"step": 1, "tokens": tokens, "tokens_per_second": tokens_per_second, "data_wait_share": wait, **norms}


def test_mfu_is_the_share_of_the_peak_of_all_devices():
    found = how_it_went(result(skipped_steps=3, rollbacks=1), flops_per_token=1e6, peak_flops=8e9)
    assert found == {"skipped_steps": 3, "rollbacks": 1, "mfu": 0.25}


def test_without_a_known_peak_no_mfu_is_claimed():
    assert "mfu" not in how_it_went(result(), flops_per_token=1e6, peak_flops=0.0)


def test_waiting_is_weighted_by_time():
    """A second of which nothing, then three of which all was spent waiting for data."""
    found = how_it_went(result([row(1000, 1000.0, 0.0), row(1300, 100.0, 1.0)]), 1e6, 0.0)
    assert found["data_wait_share"] == pytest.approx(0.75)


def test_the_largest_norm_of_a_group_is_kept_and_rows_of_skipped_steps_have_none():
    curve = [row(1, 1.0, 0.0, grad_norm_head=1.0), row(2, 1.0, 0.0, grad_norm_head=7.0), {"step": 3, "tokens": 3}]
    assert how_it_went(result(curve), 1e6, 0.0)["grad_norm_head_largest"] == 7.0


def test_an_old_curve_has_less_to_say():
    assert set(how_it_went(result([{"step": 1, "tokens": 5, "loss": 3.0}]), 1e6, 0.0)) == {"skipped_steps", "rollbacks"}
