"""Outputs of networks that are no numbers are refused, whatever their type."""

import numpy as np
import pytest
import torch

from wsss.core.checks import DataError
from wsss.models.device import check_outputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_no_numbers_are_refused(dtype: torch.dtype, value: float) -> None:
    check_outputs(torch.ones(3, dtype=dtype), np.ones(2, np.float32))
    with pytest.raises(DataError, match="no numbers"):
        check_outputs(torch.ones(3, dtype=dtype), torch.tensor([1, value], dtype=dtype))
    with pytest.raises(DataError, match="no numbers"):
        check_outputs(np.array([1, value]))
