"""Which precision a CPU is fast in: told by its flags where they tell it, measured where they do not."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import pytest
import torch

from linescan.models import processor
from linescan.models.processor import has_bfloat16, has_fast_bfloat16, product_seconds


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    has_fast_bfloat16.cache_clear()
    yield
    has_fast_bfloat16.cache_clear()


@pytest.mark.parametrize(("flags", "fast"), [({"amx_bf16": True, "avx512_bf16": True}, True), ({"avx2": True}, False)])
def test_where_the_flags_tell_it_nothing_is_measured(flags: dict[str, bool], fast: bool) -> None:
    unneeded = patch.object(processor, "product_seconds", side_effect=AssertionError("nothing is to be measured"))
    with patch.object(torch.cpu, "get_capabilities", return_value=flags), unneeded:
        assert has_fast_bfloat16() == has_bfloat16() == fast


@pytest.mark.parametrize(("gain", "fast"), [(0.5, False), (1.0, False), (1.1, False), (1.3, True), (2.0, True)])
def test_bfloat16_without_amx_is_taken_where_it_is_measured_to_be_faster(gain: float, fast: bool) -> None:
    seconds = {torch.float32: gain, torch.bfloat16: 1.0}
    measured = patch.object(processor, "product_seconds", side_effect=seconds.__getitem__)
    with patch.object(torch.cpu, "get_capabilities", return_value={"avx512_bf16": True}), measured:
        assert has_bfloat16()
        assert has_fast_bfloat16() == fast


def test_it_is_measured_once_in_a_process() -> None:
    measured = patch.object(processor, "product_seconds", return_value=1.0)
    with patch.object(torch.cpu, "get_capabilities", return_value={"avx512_bf16": True}), measured as product:
        has_fast_bfloat16()
        has_fast_bfloat16()
    assert product.call_count == 2  # once in each precision


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_takes_time(dtype: torch.dtype) -> None:
    assert 0 < product_seconds(dtype) < 10
