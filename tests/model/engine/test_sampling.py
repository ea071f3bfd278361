import numpy as np
import pytest

from model.engine.sampling import Sampler, Sampling, keep_most_probable


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(size=3000).astype(np.float32) * 3


def test_temperature_zero_takes_the_largest_logit(logits):
    assert Sampler(Sampling()).choose(logits) == logits.argmax()


def test_frequencies_follow_the_softmax():
    """Catches a wrong temperature or an off-by-one in the inverse of the distribution."""
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    sampler = Sampler(Sampling(temperature=1.0))
    counts = np.bincount([sampler.choose(logits) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(counts, [0.5, 0.3, 0.15, 0.05], atol=0.03)  # 3.8 standard deviations of the largest


@pytest.mark.parametrize("top_k", [1, 2, 50, 3000, 9999])
def test_top_k_keeps_exactly_the_k_largest(logits, top_k):
    ids, _ = keep_most_probable(np.exp(logits), top_k, 1.0)
    assert set(ids) == set(np.argsort(-logits)[:top_k])


def test_top_k_among_equals_keeps_k():
    """Catches ties at the boundary letting more than k through."""
    ids, _ = keep_most_probable(np.ones(100), 7, 1.0)
    assert list(ids) == list(range(7))


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 0.999999])
def test_top_p_keeps_the_smallest_set_that_reaches_it(logits, top_p):
    """Also across the boundary of the first sorted part (flat distributions need more than that part)."""
    for scale in (1.0, 0.01):
        weights = np.exp(logits.astype(np.float64) * scale)
        ids, kept = keep_most_probable(weights, None, top_p)
        probabilities = weights / weights.sum()
        assert probabilities[ids].sum() >= top_p - 1e-12
        assert probabilities[ids].sum() - probabilities[ids].min() < top_p
        assert probabilities[ids].min() >= np.delete(probabilities, ids).max(initial=0)
        np.testing.assert_array_equal(kept, weights[ids])


def test_equal_seeds_draw_equally_and_samples_differ(logits):
    def draw(seed: int, sample: int) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, seed=seed), sample)
        return [sampler.choose(logits) for _ in range(20)]

    assert draw(5, 0) == draw(5, 0)
    assert draw(5, 0) != draw(5, 1)
    assert draw(5, 0) != draw(6, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0}, {"temperature": float("nan")}, {"temperature": float("inf")}, {"top_k": 0},
        {"top_p": 0.0}, {"top_p": 1.5}, {"top_p": float("nan")}, {"seed": -1}, {"max_tokens": 0}, 
        {"stop": ("",)}, {"stop": "text"},
    ],
)  # fmt: skip
def test_impossible_requests_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_extreme_logits_do_not_overflow():
    logits = np.array([1e4, -1e4, 0], dtype=np.float32)
    assert Sampler(Sampling(temperature=0.01)).choose(logits) == 0
