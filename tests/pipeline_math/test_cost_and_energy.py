"""Dollars and kilowatt-hours of a public run."""

import pytest

from pipeline_math.plan import cost_usd, energy_kwh

D12_SECONDS = 35.1 * 60  # one H100, 700 W, 3 USD/h


def test_a_d12_costs_more_to_rent_than_to_power():
    assert energy_kwh(D12_SECONDS, 1, 700, 1.0, 1.0) == pytest.approx(0.41, abs=0.005)
    with_cooling = energy_kwh(D12_SECONDS, 1, 700, 1.0, 1.2)
    assert with_cooling == pytest.approx(0.49, abs=0.005)
    assert with_cooling * 0.15 == pytest.approx(0.07, abs=0.005)  # USD at 0.15 USD/kWh
    assert cost_usd(D12_SECONDS, 1, 3.0) == pytest.approx(1.75, abs=0.006)
