import pytest
import torch

from model import precision
from model.precision import _flags_name_bf16, compute_dtype


def test_float16_is_refused_with_the_alternative():
    """A CPU multiplies float16 hundreds of times slower, and without loss scaling it overflows anywhere."""
    with pytest.raises(ValueError, match=r"float16.*cpu.*allowed: auto, bfloat16, float32"):
        compute_dtype("cpu", "float16")


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_follows_the_hardware_and_a_request_overrides_it(monkeypatch, native, expected):
    monkeypatch.setattr(precision, "cpu_multiplies_bf16", lambda: native)
    assert compute_dtype("cpu") == expected
    assert compute_dtype("cpu", "float32") == torch.float32
    assert compute_dtype("cpu", "bfloat16") == torch.bfloat16


def test_cpu_flags_are_matched_as_words():
    """Bug it catches: `avx512_bf16` found inside a longer word, or in a line that is not the flags."""
    assert _flags_name_bf16("processor: 0\nflags\t: fpu avx512_bf16 avx\n")
    assert _flags_name_bf16("Features : fp asimd bf16 i8mm\n")
    assert not _flags_name_bf16("flags : fpu avx512f avx512_bf16x\nmodel name : has amx_bf16\n")
    assert not _flags_name_bf16("")


@pytest.mark.parametrize(
    ("errors", "seconds", "expected"),
    [
        ({}, {}, "highest"),  # all the same: the exact one
        ({"medium": 2e-3}, {"medium": 0.2}, "highest"),  # AMX: three times faster, and wrong in the third digit
        ({"medium": 2e-3, "high": 2e-6}, {"high": 0.5, "medium": 0.2}, "high"),
        ({"medium": 9e-6}, {"medium": 0.2}, "medium"),
        ({"high": 2e-6}, {"high": 0.95}, "highest"),  # not worth a rounding
    ],
)
def test_a_reduced_format_is_taken_only_if_its_measured_error_is_small_and_it_is_faster(
    errors, seconds, expected, monkeypatch
):
    switched = ["highest"]
    multiply = torch.Tensor.__matmul__

    def product(a, b):
        exact = multiply(a, b)
        return exact if a.dtype == torch.float64 else exact * (1 + errors.get(switched[0], 0.0))

    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda name: switched.__setitem__(0, name))
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: switched[0])
    monkeypatch.setattr(precision, "_seconds_of_product", lambda a, b: seconds.get(switched[0], 1.0))
    found = precision.matmul_precision.__wrapped__(torch.device("cpu"), torch.float32)
    assert found == expected
    assert switched == ["highest"]  # measuring leaves the setting as it was


def test_float32_leftovers_of_bfloat16_training_are_exact_on_a_cpu_and_tf32_on_cuda():
    assert precision.matmul_precision(torch.device("cpu"), torch.bfloat16) == "highest"
    assert precision.matmul_precision(torch.device("cuda"), torch.bfloat16) == "high"


def test_the_real_measurement_promises_its_error():
    precision.matmul_precision.cache_clear()
    chosen, before = (
        precision.matmul_precision(torch.device("cpu"), torch.float32),
        torch.get_float32_matmul_precision(),
    )
    a, b = torch.randn(2, 200, 200, generator=torch.Generator().manual_seed(3))
    try:
        torch.set_float32_matmul_precision(chosen)
        found = (a @ b).double()
    finally:
        torch.set_float32_matmul_precision(before)
    exact = a.double() @ b.double()
    assert (found - exact).norm() <= precision.LARGEST_PRODUCT_ERROR * exact.norm()
