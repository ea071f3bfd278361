"""Step 5 against published runs and its own models."""

import math
import random

import pytest

from pipeline_math import pretrain_step as step
from pipeline_math.layouts import RESEARCH
from pipeline_math.model_flops_vram import recomputed_flops_per_token, shape_of_depth, shape_train_flops_per_token

DAY = 24 * 3600.0


def test_seconds_of_a_public_run():
    """A nanochat d24 took 10,949 s; 4.33e19 FLOPs at 50 % of 8 H100 are 10,945 s."""
    assert step.train_seconds(4.33e19, 8, 989e12, 0.50) == pytest.approx(10_945, abs=1)
    assert step.train_seconds(4.33e19, 8, 989e12, 0.50) == pytest.approx(10_949, rel=0.001)


def test_mfu_of_palm_and_of_public_runs():
    """PaLM 540B: 238.3k tok/s on 6,144 TPUs of 275 TF is 46.2 %; d12 SSSL at 0.96 s per 2^19 tokens is 41.9 %."""
    flops = 6 * 540.35e9 + 12 * 118 * 48 * 256 * 2048
    assert step.mfu(238.3e3, flops, 6144, 275e12) == pytest.approx(0.462, abs=5e-4)
    d12 = RESEARCH.train_flops_per_token(shape_of_depth(12, 32768, 2048))
    assert step.mfu(2**19 / 0.96, d12, 1, 989e12) == pytest.approx(0.419, abs=1e-3)
    assert step.tokens_per_second(0.419, d12, 1, 989e12) == pytest.approx(546e3, rel=2e-3)


def test_throughput_seconds_and_mfu_are_one_relation():
    """Catches devices counted in one function and not in the other."""
    rate = step.tokens_per_second(0.4, 1e9, 8, 1e14)
    assert step.mfu(rate, 1e9, 8, 1e14) == pytest.approx(0.4)
    assert step.train_seconds(1e9 * 1e6, 8, 1e14, 0.4) == pytest.approx(1e6 / rate)


def test_hfu_counts_what_is_computed_twice_and_mfu_does_not():
    d12 = shape_of_depth(12, 32768, 2048)
    flops = shape_train_flops_per_token(d12)
    found = [
        step.hfu(5e5, flops, recomputed_flops_per_token(d12, kind), 1, 989e12) for kind in ("none", "selective", "full")
    ]
    assert found[0] == step.mfu(5e5, flops, 1, 989e12)
    assert found[0] < found[1] < found[2] < found[0] * 4 / 3  # 4/3 would compute the head twice, too


def test_batch_rules():
    assert step.power_lines_batch_tokens(11.0e9) == 2**20
    assert step.power_lines_batch_tokens(1.32e9) == 2**19
    unrounded = step.BATCH_AT_REFERENCE * (11.0e9 / step.TOKENS_AT_REFERENCE) ** step.BATCH_EXPONENT
    assert unrounded == pytest.approx(1.18e6, rel=0.005)
    assert step.learning_rate_factor(2**20) == pytest.approx(math.sqrt(2))
    assert step.width_learning_rate_factor(768) == 1.0
    assert step.width_learning_rate_factor(192) == 2.0
    assert step.muon_weight_decay(2**19, 2.82e9) == pytest.approx(0.131, abs=1e-3)
    assert step.muon_weight_decay(2**18, 0.14e9) == 0.28  # clamped; the rule says 1.89


def test_small_batches_keep_three_quarters_of_the_rates():
    """Bug it repairs: at 8,192 tokens per step the rule made every rate eight times too small."""
    assert step.learning_rate_factor(8192) == 0.125
    assert step.bounded_learning_rate_factor(8192) == step.bounded_learning_rate_factor(2048) == 0.75
    border = 2**19 * step.LEAST_LEARNING_RATE_FACTOR**2
    assert step.bounded_learning_rate_factor(border * 1.01) == step.learning_rate_factor(border * 1.01) > 0.75
    assert step.bounded_learning_rate_factor(2**21) == 2.0
    assert step.bounded_learning_rate_factor(8192, least=0.0) == 0.125


def test_critical_batch():
    assert step.critical_batch_tokens(3.28) / 1e6 == pytest.approx(0.70, abs=0.01)
    assert step.critical_batch_tokens(2.8) / 1e6 == pytest.approx(1.48, abs=0.01)


def test_steps_and_tokens_trade_off():
    """(S / S_min - 1)(E / E_min - 1) = 1 at every batch; at the critical one both are doubled; E = S B throughout."""
    assert step.steps_and_tokens(1e6, 1e6, 1000) == (2000, 2e9)
    for batch in (1e4, 3e5, 7e6):
        steps, tokens = step.steps_and_tokens(batch, 1e6, 1000)
        assert (steps / 1000 - 1) * (tokens / 1e9 - 1) == pytest.approx(1)
        assert tokens == pytest.approx(steps * batch)
    assert step.steps_and_tokens(1e6, 1e6, 1000, 5e8) == (2000, 1e9)


def test_gradient_noise_estimator_recovers_its_own_model():
    """E|g_B|^2 = |G|^2 + tr Sigma / B: two batch sizes must give both unknowns back."""
    signal, noise = step.gradient_noise(8, 2.0 + 40 / 8, 64, 2.0 + 40 / 64)
    assert (signal, noise) == (pytest.approx(2.0), pytest.approx(40.0))


def test_gradient_noise_from_sampled_gradients():
    """Real noisy gradients, not the expectation: G = (1, 2), unit variance in both, 4,000 draws (seed fixed)."""
    generator = random.Random(0)

    def squared_norm(batch: int) -> float:
        return sum((mean + generator.gauss(0, batch**-0.5)) ** 2 for mean in (1.0, 2.0))

    small, large = (sum(squared_norm(batch) for _ in range(4000)) / 4000 for batch in (2, 32))
    signal, noise = step.gradient_noise(2, small, 32, large)
    assert signal == pytest.approx(5.0, rel=0.05)
    assert noise == pytest.approx(2.0, rel=0.1)


def test_muon_cost():
    """5 m / B for a square; d = 768 at 2^19 tokens costs about 0.6 %; the order of rows and columns is no matter."""
    assert step.muon_relative_cost(768, 768, 524288) == pytest.approx(5 * 768 / 524288)
    assert step.muon_relative_cost(768, 3072, 524288) == step.muon_relative_cost(3072, 768, 524288)
    assert step.muon_relative_cost(768, 3072, 524288) == pytest.approx((10 / 3) * (768 / 524288) * (1 + 768 / 6144))
    model = step.muon_step_flops(12, 768, 6, 6, 3072) / (6 * 84_934_656 * 524288)
    assert model == pytest.approx(0.006, abs=0.0005)


def test_muon_flops_of_a_whole_model():
    """A d4 costs 20.1 GFLOP per step; fewer key/value heads cost less."""
    assert step.muon_step_flops(4, 256, 2, 2, 1024) / 1e9 == pytest.approx(20.1, abs=0.05)
    assert step.muon_step_flops(4, 256, 2, 2, 1024) == 300 * 4 * 256**3
    assert step.muon_step_flops(4, 256, 2, 1, 1024) < step.muon_step_flops(4, 256, 2, 2, 1024)


def test_checkpoint_interval():
    """2 s to write and a failure a day: every 588 s, 0.34 % of the time in writing, as much again in repeating."""
    interval = step.checkpoint_interval_seconds(2, DAY)
    assert interval == pytest.approx(588, abs=0.5)
    assert step.checkpoint_overhead_share(2, interval) == pytest.approx(0.0034, abs=1e-4)
    assert step.lost_share(2, interval, DAY) == pytest.approx(2 * step.checkpoint_overhead_share(2, interval))
    assert all(step.lost_share(2, factor * interval, DAY) > step.lost_share(2, interval, DAY) for factor in (0.8, 1.25))


def test_expected_time_with_failures():
    """Without failures it is work and writing; the Young-Daly interval is its minimum to first order."""
    never = 1e12
    assert step.expected_seconds_with_failures(1000, 100, 2, 0, never) == pytest.approx(1020)
    interval = step.checkpoint_interval_seconds(2, DAY)
    times = [step.expected_seconds_with_failures(DAY, f * interval, 2, 60, DAY) for f in (0.7, 1.0, 1.4)]
    assert times[1] < min(times[0], times[2])
    assert times[1] / DAY == pytest.approx((1 + step.lost_share(2, interval, DAY)) * math.exp(60 / DAY), rel=1e-4)


def test_expected_time_equals_a_simulation():
    """The formula against 3,000 simulated runs with exponential failures (seed fixed; 3 % is three standard errors)."""
    generator = random.Random(1)
    work, interval, write, restart, mean = 400.0, 50.0, 5.0, 10.0, 100.0

    def one_run() -> float:
        clock, failure = 0.0, generator.expovariate(1 / mean)
        for need in [interval + write] * round(work / interval):
            start = clock
            while start + need > failure:
                start, failure = failure, failure + generator.expovariate(1 / mean)
                while start + restart > failure:  # a failure during the restart
                    start, failure = failure, failure + generator.expovariate(1 / mean)
                start += restart
            clock = start + need
        return clock

    simulated = sum(one_run() for _ in range(3000)) / 3000
    expected = step.expected_seconds_with_failures(work, interval, write, restart, mean)
    assert simulated == pytest.approx(expected, rel=0.03)


def test_accumulation_is_whole():
    assert step.accumulation_steps(2**19, 32, 2048, 1) == 8
    with pytest.raises(ValueError, match=r"no multiple of micro_batch_rows=24 .* = 49152"):
        step.accumulation_steps(2**19, 24, 2048, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: step.mfu(-1, 1, 1, 1), "tokens_per_second=-1"),
        (lambda: step.mfu(1, 1, 0, 1), "devices=0"),
        (lambda: step.hfu(1, 1, float("nan"), 1, 1), "recomputed_flops_per_token=nan"),
        (lambda: step.tokens_per_second(0, 1, 1, 1), "mfu=0"),
        (lambda: step.train_seconds(float("inf"), 1, 1, 1), "total_flops=inf"),
        (lambda: step.power_lines_batch_tokens(0), "train_tokens=0"),
        (lambda: step.learning_rate_factor(-1), "batch_tokens=-1"),
        (lambda: step.width_learning_rate_factor(0), "d_model=0"),
        (lambda: step.muon_weight_decay(1, 0), "train_tokens=0"),
        (lambda: step.critical_batch_tokens(-3), "loss_nats=-3"),
        (lambda: step.steps_and_tokens(0, 1, 1), "batch_tokens=0"),
        (lambda: step.gradient_noise(8, 1, 8, 1), "large_batch=8: allowed are sizes above small_batch=8"),
        (lambda: step.newton_schulz_flops(-1, 2), "rows=-1"),
        (lambda: step.muon_relative_cost(1, 1, 0), "batch_tokens=0"),
        (lambda: step.checkpoint_interval_seconds(-1, 1), "write_seconds=-1"),
        (lambda: step.checkpoint_overhead_share(1, 0), "interval_seconds=0"),
        (lambda: step.lost_share(1, 1, 0), "mean_seconds_between_failures=0"),
        (lambda: step.expected_seconds_with_failures(1, 1e4, 1, 1, 10), "never finished; next: save every 4.47 s"),
        (lambda: step.accumulation_steps(8, 0, 8, 1), "micro_batch_rows=0"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
