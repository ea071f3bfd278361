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
