"""Queues against closed forms and a simulated server, and what follows from them for a service."""

import heapq
import math
import random

import pytest

from pipeline_math.chat_latency import (
    ServedRequest,
    answer_seconds,
    erlang_c,
    expected_goodput,
    goodput,
    largest_arrival_rate,
    largest_rate_by_response,
    largest_rate_by_wait,
    md1_mean_seconds,
    mg1_mean_seconds,
    mm1_mean_seconds,
    mm1_quantile_seconds,
    mmc_mean_seconds,
    mmc_response_exceeds,
    mmc_response_quantile_seconds,
    mmc_wait_exceeds,
    mmc_wait_quantile_seconds,
    requests_in_system,
    seconds_per_output_token,
    servers_needed,
    slots_needed,
)


def simulated(slots, rate, service_seconds, requests=60000, seed=0):
    """(waits, responses) of a first-come-first-served M/M/c queue, after a warm-up."""
    generator, clock = random.Random(seed), 0.0
    free_at, waits, responses = [0.0] * slots, [], []
    for number in range(requests):
        clock += generator.expovariate(rate)
        begin = max(clock, heapq.heappop(free_at))
        end = begin + generator.expovariate(1 / service_seconds)
        heapq.heappush(free_at, end)
        if number > 2000:
            waits.append(begin - clock)
            responses.append(end - clock)
    return waits, responses


def test_half_a_load_of_one_server():
    assert mm1_mean_seconds(1, 0.5) == 2
    assert mm1_quantile_seconds(1, 0.5) == pytest.approx(5.99, abs=0.005)
    assert md1_mean_seconds(1, 0.5) == pytest.approx(1.5)
    assert mg1_mean_seconds(1, 0.5, 1.0) == pytest.approx(mm1_mean_seconds(1, 0.5))
    assert mg1_mean_seconds(1, 0.5, 2.0) > mm1_mean_seconds(1, 0.5)
    for speed in (0.2, 4.0):  # a server that is faster in all its times
        assert mg1_mean_seconds(speed, 0.8 * speed, 1.0) == pytest.approx(mm1_mean_seconds(speed, 0.8 * speed))
        assert md1_mean_seconds(speed, 0.5 * speed) == pytest.approx(1.5 / speed)
    assert requests_in_system(0.5, mm1_mean_seconds(1, 0.5)) == 1


def test_eight_slots_at_half_load():
    waiting, seconds = erlang_c(8, 2.5, 1.6)
    assert waiting == pytest.approx(0.059, abs=5e-4)
    assert seconds == pytest.approx(0.024, abs=5e-4)
    assert mmc_mean_seconds(8, 2.5, 1.6) == pytest.approx(1.624, abs=5e-4)


def test_recursion_equals_the_sum_it_replaces_and_survives_many_slots():
    for slots, load in ((1, 0.5), (3, 2.2), (20, 15.0)):
        below = sum(load**k / math.factorial(k) for k in range(slots))
        full = load**slots / math.factorial(slots) * slots / (slots - load)
        assert erlang_c(slots, load, 1.0)[0] == pytest.approx(full / (below + full))
    assert 0 < erlang_c(5000, 4950.0, 1.0)[0] < 1  # factorials of 5,000 do not fit a float


def test_one_slot_is_the_single_server():
    waiting, seconds = erlang_c(1, 0.5, 1.0)
    assert waiting == pytest.approx(0.5)
    assert seconds + 1.0 == pytest.approx(mm1_mean_seconds(1, 0.5))
    assert mmc_response_quantile_seconds(1, 0.5, 1.0) == pytest.approx(mm1_quantile_seconds(1, 0.5))
    assert mmc_response_quantile_seconds(1, 0.5, 1.6) == pytest.approx(mm1_quantile_seconds(1 / 1.6, 0.5))
    assert mmc_response_quantile_seconds(1, 0.999, 1.0) == pytest.approx(mm1_quantile_seconds(1, 0.999))  # long times


def test_tails_equal_a_simulated_server():
    """60,000 requests at 85 % load; shares above a time agree within the noise of correlated waits."""
    slots, rate, service = 4, 1.7, 2.0
    waits, responses = simulated(slots, rate, service)
    for seconds in (0.0, 0.5, 1.0, 2.0, 4.0):
        share = sum(wait > seconds for wait in waits) / len(waits)
        assert mmc_wait_exceeds(slots, rate, service, seconds) == pytest.approx(share, abs=0.03)
        share = sum(response > seconds for response in responses) / len(responses)
        assert mmc_response_exceeds(slots, rate, service, seconds) == pytest.approx(share, abs=0.03)
    assert mmc_mean_seconds(slots, rate, service) == pytest.approx(sum(responses) / len(responses), rel=0.05)


def test_response_tail_is_continuous_where_the_two_rates_meet():
    """theta = c mu - lambda equals mu at lambda = (c - 1) mu: the formula divides by their difference."""
    at, beside = (mmc_response_exceeds(3, rate, 1.0, 2.0) for rate in (2.0, 2.0 + 1e-9))
    assert at == pytest.approx(beside, rel=1e-6)
    assert mmc_response_exceeds(3, 1.0, 1.0, 0.0) == pytest.approx(1.0)


def test_quantiles_are_where_the_tails_say():
    wait = mmc_wait_quantile_seconds(8, 4.5, 1.6)
    assert mmc_wait_exceeds(8, 4.5, 1.6, wait) == pytest.approx(0.05)
    assert mmc_wait_quantile_seconds(8, 2.5, 1.6, 0.9) == 0  # only 6 % wait at all
    response = mmc_response_quantile_seconds(8, 4.5, 1.6)
    assert mmc_response_exceeds(8, 4.5, 1.6, response) == pytest.approx(0.05)


def test_largest_rates_meet_their_budget_and_no_more():
    rate = largest_arrival_rate(1.0, 5.991)
    assert mm1_quantile_seconds(1.0, rate) == pytest.approx(5.991)
    assert largest_arrival_rate(1.0, 2.0) == 0.0
    rate = largest_rate_by_wait(8, 1.6, 0.5)
    assert mmc_wait_quantile_seconds(8, rate, 1.6) == pytest.approx(0.5)
    rate = largest_rate_by_response(8, 1.6, 6.0)
    assert 0 < rate < 8 / 1.6
    assert mmc_response_quantile_seconds(8, rate, 1.6) == pytest.approx(6.0)
    assert largest_rate_by_response(1, 1.0, 5.991) == pytest.approx(largest_arrival_rate(1.0, 5.991), abs=1e-6)
    for solve in (largest_rate_by_wait, largest_rate_by_response):  # capacity bounds what patience cannot
        assert solve(7, 0.3, 1e15) == pytest.approx(7 / 0.3)
    assert largest_rate_by_response(8, 1.6, 1.0) == 0.0  # an idle server is slower than that once in two


def test_slots_and_servers_needed():
    slots = slots_needed(20.0, 1.6, 0.5)
    assert mmc_wait_quantile_seconds(slots, 20.0, 1.6) <= 0.5 < mmc_wait_quantile_seconds(slots - 1, 20.0, 1.6)
    assert slots_needed(0.0, 1.6, 0.5) == 1
    assert (servers_needed(33, 16), servers_needed(32, 16)) == (3, 2)


def test_goodput_counts_requests_that_meet_both_budgets():
    seen = [ServedRequest(0.1, 0.01), ServedRequest(0.1, 0.2), ServedRequest(3.0, 0.01), ServedRequest(1.0, 0.1)]
    assert goodput(seen, 10.0, ttft_budget=1.0, tpot_budget=0.1) == pytest.approx(0.2)
    assert expected_goodput(8, 2.5, 1.6, 0.0) == pytest.approx(2.5 * (1 - 0.059), abs=2e-3)
    assert expected_goodput(8, 2.5, 1.6, 100.0) == pytest.approx(2.5)


def test_user_latency_round_trip():
    assert answer_seconds(0.1, 0.2, 51, 0.01) == pytest.approx(0.81)
    assert seconds_per_output_token(0.2 + 50 * 0.01, 0.2, 51) == pytest.approx(0.01)
    assert seconds_per_output_token(0.5, 0.5, 2) == 0
    for total, first, tokens in ((1, 0.5, 1), (0.5, 1, 10)):
        with pytest.raises(ValueError, match=r"at (least|most)"):
            seconds_per_output_token(total, first, tokens)


@pytest.mark.parametrize("rate", [5.0, 6.0])
def test_a_load_at_capacity_is_refused(rate):
    for function in (erlang_c, mmc_wait_quantile_seconds, mmc_response_quantile_seconds):
        with pytest.raises(ValueError, match="capacity"):
            function(8, rate, 1.6)
    with pytest.raises(ValueError, match="capacity"):
        mm1_mean_seconds(5.0, rate)
