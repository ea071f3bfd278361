"""The two memory constants come from two public runs; a published rule for 16-bit blocks."""

import dataclasses

import pytest

from pipeline_math.layouts import mixed_static, value_embedding_parameters
from pipeline_math.memory_constants import (
    COMPILED_ACTIVATION_BYTES,
    FULL_LOGIT_BYTES,
    MemoryProbe,
    fit_memory_constants,
    korthikanti_layer_bytes,
    training_memory_bytes,
)
from pipeline_math.model_flops_vram import shape_of_depth

GIB = 1024**3
D12_STATIC = mixed_static(shape_of_depth(12, 32768, 2048))
D8 = shape_of_depth(8, 8192, 2048)
D8_STATIC = mixed_static(D8, 1, value_embedding_parameters(D8))
D12_PROBE = MemoryProbe(12, 768, 32768, 2048, 32, D12_STATIC.total_bytes, 34 * GIB)
D8_PROBE = MemoryProbe(8, 512, 8192, 2048, 128, D8_STATIC.total_bytes, 44 * GIB)


def test_the_two_constants_come_from_the_two_public_runs():
    """K = 25.2, G = 9.2 from d12 (34 GiB, static 1.62 GB) and d8 (44 GiB, static 0.54 GB); 30.5 and 6.5 if the 34 is
    GB, which moves only the borderline case (77.8 GiB)."""
    assert D12_STATIC.total_bytes / 1e9 == pytest.approx(1.62, abs=0.005)
    assert D8_STATIC.total_bytes / 1e9 == pytest.approx(0.54, abs=0.005)
    assert fit_memory_constants([D12_PROBE, D8_PROBE]) == (pytest.approx(25.2, abs=0.05), pytest.approx(9.2, abs=0.05))
    k, g = fit_memory_constants([dataclasses.replace(D12_PROBE, peak_bytes=34e9), D8_PROBE])
    assert (k, g) == (pytest.approx(30.5, abs=0.1), pytest.approx(6.5, abs=0.1))
    old_d20 = shape_of_depth(20, 65536, 2048)
    static = mixed_static(old_d20, 8).total_bytes
    assert training_memory_bytes(20, 1280, 65536, 2048, 32, static, k, g) / GIB == pytest.approx(77.8, abs=0.6)


@pytest.mark.parametrize(("probe", "gib"), [(D12_PROBE, 34.0), (D8_PROBE, 44.0)])
def test_the_fitted_constants_give_their_own_runs_back(probe, gib):
    """Within 1 %: the constants are rounded to three digits."""
    found = training_memory_bytes(
        probe.n_layers, probe.d_model, probe.vocab_size, probe.tokens_per_row, probe.rows, probe.static_bytes
    )
    assert found / GIB == pytest.approx(gib, rel=0.01)


def test_least_squares_over_more_probes_recovers_the_constants_behind_them():
    def probe(layers: int, vocab_size: int, rows: int) -> MemoryProbe:
        peak = training_memory_bytes(layers, 256, vocab_size, 512, rows, 1e8, 30.0, 7.0)
        return MemoryProbe(layers, 256, vocab_size, 512, rows, 1e8, peak)

    found = fit_memory_constants([probe(2, 4096, 4), probe(8, 4096, 4), probe(4, 512, 16)])
    assert found == (pytest.approx(30.0), pytest.approx(7.0))


def test_probes_that_differ_only_in_rows_are_refused():
    """Bug it catches: the fit would divide rounding errors by each other and return any K and G."""
    more_rows = dataclasses.replace(D12_PROBE, rows=64, peak_bytes=66 * GIB)
    with pytest.raises(ValueError, match="2 memory probes do not tell activations from logits"):
        fit_memory_constants([D12_PROBE, more_rows])
    with pytest.raises(ValueError, match="1 memory probes"):
        fit_memory_constants([D12_PROBE])


@pytest.mark.parametrize(("recompute", "gigabytes"), [("none", 2.87), ("selective", 0.86), ("full", 0.05)])
def test_korthikanti_on_gpt3(recompute, gigabytes):
    assert korthikanti_layer_bytes(2048, 1, 12288, 96, recompute) / 1e9 == pytest.approx(gigabytes, abs=0.006)


def test_constants_are_the_rounded_fit():
    """The constants in the package are not free numbers: they are the fit to three digits."""
    k, g = fit_memory_constants([D12_PROBE, D8_PROBE])
    assert pytest.approx(k, rel=0.005) == COMPILED_ACTIVATION_BYTES
    assert pytest.approx(g, rel=0.005) == FULL_LOGIT_BYTES
