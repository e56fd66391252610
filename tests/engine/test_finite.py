import pytest
import torch

from engine.loading.finite import is_finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), -float("inf")])
def test_one_number_that_is_none_is_found(dtype, value):
    values = torch.zeros(300, 7, dtype=dtype)
    values[150, 3] = value
    assert is_finite(values) == bool(torch.isfinite(values).all())


def test_nothing_is_finite():
    assert is_finite(torch.zeros(0, 4))
