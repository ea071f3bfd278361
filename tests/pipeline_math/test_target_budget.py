"""The solver against worked-out plans, a public run and its own promises."""

import dataclasses

import pytest

from pipeline_math.candidate import candidate, effective_parameters, largest_rows, ratio_penalty
from pipeline_math.hardware import HARDWARE, find_hardware
from pipeline_math.layouts import DEFAULT, RESEARCH
from pipeline_math.loss_law import BEST_RATIO, chinchilla_loss, chinchilla_optimum, isoflop_bits_per_byte
from pipeline_math.loss_law import expected_bits_per_byte as expected
from pipeline_math.model_flops_vram import power_of_two_floor
from pipeline_math.scaled_work import ScaledWork
from pipeline_math.target_budget import EVEN_DEPTHS, Goal, memory_fits, seconds_of_all_stages, solve

SMALL = {"tokens_per_row": 512, "vocab_size": 4096}


@pytest.mark.parametrize(
    ("hardware", "devices", "hours", "mfu", "depth", "ratio", "tokens_billion", "rows", "bpb"),
    [
        ("rtx4090", 1, 24, 0.65, 18, 13.1, 4.26, 8, 0.803),
        ("rtx3090", 1, 24, 0.50, 16, 8.2, 1.93, 8, 0.848),
        ("h200", 1, 0.5, 0.42, 12, 8.9, 0.98, 64, 0.910),
        ("h200", 1, 1, 0.42, 14, 8.1, 1.33, 64, 0.879),
        ("h100", 1, 8, 0.45, 20, 10.2, 4.44, 16, 0.790),
        ("h100", 8, 3, 0.50, 24, 12.3, 8.95, 16, 0.744),
    ],
)
def test_worked_out_plans_are_found_again(hardware, devices, hours, mfu, depth, ratio, tokens_billion, rows, bpb):
    """The last row is run 1 of the nanochat leaderboard: d24 and 8.76 B tokens out of "3 h on 8 x H100" alone.

    1.5 %: whole steps and an overhead of 10 ms per step, which these rows leave out.
    """
    goal = Goal(hours, find_hardware(hardware), devices, mfu=mfu, pretrain_share=1.0)
    found = solve(goal, RESEARCH)
    assert found.shape.n_layers == depth
    assert found.ratio == pytest.approx(ratio, rel=0.02)
    assert found.train_tokens / 1e9 == pytest.approx(tokens_billion, rel=0.015)
    assert power_of_two_floor(largest_rows(goal, RESEARCH, found.shape)) == rows
    assert isoflop_bits_per_byte(found.train_flops) == pytest.approx(bpb, abs=0.0015)


def test_a_day_on_one_card_with_everything_included():
    """24 h on an RTX 4090, from text to chat: d18 to d20, and it fits in 24 GiB."""
    work = ScaledWork()
    card = solve(Goal(24, find_hardware("rtx4090")), work=work.of)
    assert card.shape.n_layers in (18, 20)
    assert memory_fits(card)
    assert card.memory_bytes < 24 * 1024**3
    seconds = seconds_of_all_stages(card, work.of)
    assert 24 * 3600 * 0.999 < seconds <= 24 * 3600
    assert card.steps * card.step_seconds < 0.9 * seconds  # catches a budget spent on pretraining alone


def test_full_attention_costs_tokens():
    """The default layout counts 10.7 % more FLOPs per token at d24 than windowed attention does."""
    node = solve(Goal(3, find_hardware("h100"), 8, mfu=0.50, pretrain_share=1.0))
    assert node.shape.n_layers == 24
    assert node.train_tokens / 1e9 == pytest.approx(8.08, rel=0.015)


def test_training_tokens_are_whole_steps_of_whole_micro_batches():
    for hardware in HARDWARE.values():
        for tokens_per_row in (512, 768):
            goal = Goal(0.5, hardware, 1, tokens_per_row=tokens_per_row, vocab_size=4096)
            found = solve(goal, depths=(4, 10, 16))
            assert found.train_tokens == found.steps * found.batch_tokens
            assert found.batch_tokens % (found.micro_batch_rows * tokens_per_row) == 0
            assert memory_fits(found)


def test_chosen_depth_expects_the_least_loss_and_a_near_ratio():
    """Exhaustive check. At equal compute the least loss is at the ratio nearest the measured optimum."""
    goal = Goal(8, find_hardware("h100"), mfu=0.45)
    found = solve(goal)
    others = [solve(dataclasses.replace(goal, depth=depth)) for depth in EVEN_DEPTHS if depth != found.shape.n_layers]
    assert others
    assert all(found.bits_per_byte.value <= other.bits_per_byte.value for other in others)
    assert BEST_RATIO / 1.6 < found.ratio < BEST_RATIO * 1.6  # neighbouring depths differ by about that factor


def test_another_ratio_may_be_wanted():
    """A model that will be served a lot should be smaller than the best one for its compute, and trained longer."""
    best = solve(Goal(8, find_hardware("h100")))
    small = solve(Goal(8, find_hardware("h100"), ratio=40.0))
    assert small.shape.n_layers < best.shape.n_layers
    assert small.ratio > 2 * best.ratio
    assert small.bits_per_byte.value > best.bits_per_byte.value  # the wish changes the choice, not the expectation


def test_the_penalty_is_least_at_the_best_ratio():
    """Catches a penalty from a law with another optimum: it made a larger budget expect a worse loss."""
    assert ratio_penalty(1e8, BEST_RATIO * 1e8) == pytest.approx(1.0)
    for factor in (1.2, 2.0, 10.0):
        more = ratio_penalty(1e8 / factor, BEST_RATIO * 1e8 * factor)
        fewer = ratio_penalty(1e8 * factor, BEST_RATIO * 1e8 / factor)
        assert more > 1.0
        assert fewer > 1.0
        assert more == pytest.approx(fewer, rel=0.03)
    assert ratio_penalty(4.19e6, 1.0e6) > ratio_penalty(4.19e6, 2.34e6) > 1.05


def test_scarce_text_asks_for_a_smaller_model_and_more_passes():
    plenty = solve(Goal(24, find_hardware("h100")))
    scarce = solve(Goal(24, find_hardware("h100"), unique_tokens=2e8))
    assert scarce.shape.n_layers < plenty.shape.n_layers
    assert scarce.epochs is not None
    assert scarce.epochs > 4
    assert scarce.bits_per_byte.value > plenty.bits_per_byte.value


def test_parameters_without_text_to_fill_them_count_less():
    assert effective_parameters(1e9, 1e9 / BEST_RATIO, BEST_RATIO) == pytest.approx(1e9 / BEST_RATIO)
    assert effective_parameters(1e12, 1e8, BEST_RATIO) == pytest.approx(1e8)
    limit = 1e6 * (1 + 5.309743)  # however many there are
    assert effective_parameters(1e6 * BEST_RATIO, 1e12, BEST_RATIO) == pytest.approx(limit)


def test_short_runs_keep_a_minimum_of_steps():
    """Catches the batch rule applied below its range: it would leave a ten-minute run forty steps."""
    found = solve(Goal(1 / 6, find_hardware("cpu-2core"), depth=4, pretrain_share=1.0, **SMALL))
    assert found.steps >= 300
    assert found.batch_tokens & (found.batch_tokens - 1) == 0


@pytest.mark.parametrize("minutes", [1, 2, 4, 8, 9, 10, 11, 12, 16, 30])
def test_no_run_is_short_of_steps_that_a_smaller_batch_would_give(minutes):
    """The batch was chosen with the cheaper tokens of a large one, and its steps were not counted again."""
    goal = Goal(minutes / 60, find_hardware("cpu-2core"), depth=4, pretrain_share=1.0, **SMALL)
    found = solve(goal)
    assert found.steps >= goal.minimum_steps or found.batch_tokens == goal.row_tokens_of_all_devices
    assert found.steps * found.step_seconds == pytest.approx(minutes * 60, rel=0.5 / found.steps)


def test_the_smallest_batch_is_one_micro_batch():
    """Six seconds are no three hundred steps, however small they are; a given micro-batch is never cut."""
    goal = Goal(1 / 600, find_hardware("cpu-2core"), depth=4, pretrain_share=1.0, micro_batch_rows=4, **SMALL)
    found = solve(goal)
    assert found.steps < goal.minimum_steps
    assert found.batch_tokens == 4 * goal.tokens_per_row


def test_given_tokens_are_trained_on_whatever_the_hours():
    goal = Goal(0.001, find_hardware("cpu-2core"), depth=4, train_tokens=1_000_000, **SMALL)
    found = solve(goal)
    assert 1_000_000 <= found.train_tokens < 1_000_000 + found.batch_tokens


def test_a_given_micro_batch_is_kept():
    found = solve(Goal(24, find_hardware("rtx4090"), micro_batch_rows=3))
    assert found.micro_batch_rows == 3
    assert found.batch_tokens % (3 * 2048) == 0


def test_speed_and_mfu_follow_from_the_step():
    found = solve(Goal(24, find_hardware("rtx4090"), 2, mfu=0.6))
    assert found.tokens_per_second == pytest.approx(found.batch_tokens / found.step_seconds)
    reached = found.train_flops_per_token * found.batch_tokens / (2 * 1.652e14 * found.step_seconds)
    assert found.mfu == pytest.approx(reached)
    assert 0.58 < found.mfu < 0.6  # the overhead of a step is not free


def test_another_layout_takes_the_time_of_its_own_flops():
    goal = Goal(3, find_hardware("h100"), 8, mfu=0.5)
    own, default = candidate(goal, RESEARCH, 24, 10800.0), candidate(goal, DEFAULT, 24, 10800.0)
    flops = own.train_flops_per_token / default.train_flops_per_token
    assert flops < 0.95
    assert own.step_seconds / default.step_seconds == pytest.approx(flops, rel=0.02)


def test_chinchilla_optimum_is_not_the_rounded_one():
    """5.76e23 FLOPs: 72.3 B parameters, 1.33 T tokens. Hoffmann's rounded constants would give 32 B."""
    parameters, tokens = chinchilla_optimum(5.76e23)
    assert parameters / 1e9 == pytest.approx(72.3, abs=1.0)
    assert tokens / 1e12 == pytest.approx(1.33, abs=0.02)
    assert tokens / parameters == pytest.approx(18.4, abs=0.4)
    assert abs(parameters / 32e9 - 1) > 0.5


def test_chinchilla_optimum_minimises_its_own_loss():
    flops = 4.33e19
    best, tokens = chinchilla_optimum(flops)
    assert best / 1e6 == pytest.approx(556, rel=0.02)
    assert chinchilla_loss(best, tokens) == pytest.approx(2.67, abs=0.01)
    for factor in (0.9, 1.1):
        assert chinchilla_loss(best * factor, tokens / factor) > chinchilla_loss(best, tokens)


def test_loss_law_out_of_sample():
    assert isoflop_bits_per_byte(4.33e19) == pytest.approx(0.7435, abs=2e-4)
    assert isoflop_bits_per_byte(1e19) == pytest.approx(0.7999, abs=2e-4)
    inside, far = expected(4.33e19), expected(1e14)
    assert inside.low < 0.7483 < inside.high  # measured by the public run
    assert far.high / far.low > inside.high / inside.low


def test_undertrained_models_are_expected_to_be_worse():
    """The iso-FLOP law alone would be too hopeful at two tokens per parameter."""
    found = solve(Goal(1 / 12, find_hardware("cpu-2core"), depth=4, pretrain_share=1.0, **SMALL))
    assert found.ratio < 2.5
    assert found.bits_per_byte.value > 1.02 * isoflop_bits_per_byte(found.train_flops)
