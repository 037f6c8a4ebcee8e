"""Affine quantization: its laws on random tensors, the packing of four bits, and the naive cast beside it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from enxuto.compressing.quantizing.affine import Affine, Quantized, lesson, pack4, quantize, sqnr_db, unpack4
from enxuto.errors import UsageError

grids = st.builds(
    Affine, bits=st.integers(2, 16), symmetric=st.booleans(), axis=st.sampled_from([None, 0, 1, -1])
)
tensors = st.builds(
    lambda seed, rows, columns, scale, shift: (
        torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * scale + shift
    ),
    st.integers(0, 10_000),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([1e-6, 0.1, 1.0, 1e4]),
    st.sampled_from([0.0, 3.0, -3.0]),
)


@settings(max_examples=150, deadline=None)
@given(tensors, grids)
def test_every_value_comes_back_within_half_a_scale(values: torch.Tensor, affine: Affine) -> None:
    stored = quantize(values, affine)
    slack = 1 + 2**-22 * 2**affine.bits  # float32 rounds the quotient of up to 2^16 steps
    assert ((stored.dequantize() - values).abs() <= stored.scale / 2 * slack + values.abs() * 2**-22).all()


@settings(max_examples=100, deadline=None)
@given(tensors, grids)
def test_zero_is_on_every_grid_and_codes_fit_their_bits(values: torch.Tensor, affine: Affine) -> None:
    stored = quantize(values, affine)
    zero = stored.zero_point
    assert ((zero >= affine.lowest) & (zero <= affine.highest)).all()
    codes = stored.codes.int()
    assert ((codes >= affine.lowest) & (codes <= affine.highest)).all()
    assert affine.highest - affine.lowest == 2**affine.bits - (2 if affine.symmetric else 1)
    back = Quantized(codes=zero, scale=stored.scale, zero_point=zero, affine=affine).dequantize()
    assert (back == 0).all()


@settings(max_examples=50, deadline=None)
@given(tensors, grids)
def test_quantizing_again_changes_nothing(values: torch.Tensor, affine: Affine) -> None:
    once = quantize(values, affine).dequantize()
    again = quantize(once, affine)
    assert ((again.dequantize() - once).abs() <= again.scale * 0.51).all()
    if affine.symmetric:
        assert torch.equal(again.codes, quantize(values, affine).codes)


def test_a_scale_for_each_channel_costs_bytes_and_gains_decibels() -> None:
    values = torch.randn(8, 100, generator=torch.Generator().manual_seed(0))
    values *= torch.logspace(-2, 0, 8)[:, None]
    whole, channels = quantize(values, Affine()), quantize(values, Affine(axis=0))
    assert whole.nbytes == 800 + 4
    assert channels.nbytes == 800 + 8 * 4
    assert quantize(values, Affine(bits=4, symmetric=False, axis=0)).nbytes == 400 + 8 * 4 + 8
    assert sqnr_db(values, channels.dequantize()) > sqnr_db(values, whole.dequantize())
    smallest = [(stored.dequantize() - values)[0].abs().max() for stored in (whole, channels)]
    assert smallest[0] > 50 * smallest[1]  # the small channel had two hundredths of the codes


def test_an_exact_example() -> None:
    stored = quantize(torch.tensor([-1.0, 0.0, 0.5, 3.0]), Affine(bits=2, symmetric=False))
    assert stored.scale.item() == pytest.approx(4 / 3)
    assert stored.zero_point.item() == 1  # round(1 / (4 / 3))
    assert stored.codes.tolist() == [0, 1, 1, 3]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-8, 7), max_size=40))
def test_packing_signed_codes_round_trips(codes: list[int]) -> None:
    tensor = torch.tensor(codes, dtype=torch.int8)
    packed = pack4(tensor)
    assert packed.numel() == (len(codes) + 1) // 2
    assert torch.equal(unpack4(packed, tuple(tensor.shape), signed=True), tensor)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 15), max_size=40))
def test_packing_unsigned_codes_round_trips(codes: list[int]) -> None:
    tensor = torch.tensor(codes, dtype=torch.uint8)
    assert torch.equal(unpack4(pack4(tensor), tuple(tensor.shape), signed=False), tensor)


def test_the_first_code_is_in_the_low_half() -> None:
    assert pack4(torch.tensor([1, -2, 7])).tolist() == [0xE1, 0x07]


def test_the_naive_cast_beside_the_right_one() -> None:
    weights = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    found = lesson(weights)
    assert found.naive.max_error > 1
    assert found.naive.sqnr_db < 6 < 35 < found.right.sqnr_db
    assert found.right.nbytes == 64 * 64 + 4
    assert found.right.saved_ratio == pytest.approx(0.75, abs=1e-3)
    assert found.right.max_error <= float(weights.abs().max()) / 127 / 2 * 1.0001


def test_the_naive_cast_is_not_bad_where_it_happens_to_fit() -> None:
    assert lesson(torch.rand(50, generator=torch.Generator().manual_seed(0))).naive.max_error < 1 / 255


@pytest.mark.parametrize(
    ("tensor", "affine"),
    [
        (torch.tensor([]), Affine()),
        (torch.tensor([1, 2]), Affine()),
        (torch.tensor([1.0, float("nan")]), Affine()),
        (torch.tensor([1.0, float("inf")]), Affine()),
        (torch.tensor([1.0]), Affine(axis=1)),
    ],
)
def test_what_cannot_be_quantized_is_refused(tensor: torch.Tensor, affine: Affine) -> None:
    with pytest.raises(UsageError):
        quantize(tensor, affine)


@pytest.mark.parametrize("bits", [1, 17])
def test_bits_out_of_range_are_refused(bits: int) -> None:
    with pytest.raises(UsageError):
        Affine(bits=bits)


@pytest.mark.parametrize("codes", [[16], [-9], [-1, 8]])
def test_codes_of_more_than_four_bits_are_refused(codes: list[int]) -> None:
    with pytest.raises(UsageError):
        pack4(torch.tensor(codes))


def test_bytes_of_another_count_are_refused() -> None:
    with pytest.raises(UsageError):
        unpack4(torch.zeros(2, dtype=torch.uint8), (5,), signed=True)


def test_zeros_are_exact() -> None:
    stored = quantize(torch.zeros(3, 4), Affine(axis=0))
    assert torch.equal(stored.dequantize(), torch.zeros(3, 4))
    assert sqnr_db(torch.ones(2), torch.ones(2)) == float("inf")
