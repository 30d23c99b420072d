"""What the exporter does not know, or translates wrongly, and is written otherwise: op by op, run in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from graphclone.export.onnx import export_onnx

MENDED: list[Callable[[Tensor], Tensor]] = []


def mended(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Of (2, 6, 8), the batch open."""
    MENDED.append(function)
    return function


@mended
def five_dims(x: Tensor) -> Tensor:
    folded = x.unflatten(-1, (2, 4)).unflatten(1, (2, 3)).transpose(-2, -3)
    return nn.functional.scaled_dot_product_attention(folded, folded * 2, folded)


@mended
def three_dims(x: Tensor) -> Tensor:
    return nn.functional.scaled_dot_product_attention(x, x * 2, x)


@mended
def a_position_that_looks_nowhere(x: Tensor) -> Tensor:
    heads, mask = x.unflatten(-1, (2, 4)).transpose(1, 2), (x[:, None, :, :1] > 0) & (x[:, None, :, :6] > -1)
    return nn.functional.scaled_dot_product_attention(heads, heads * 2, heads, mask)


@mended
def spectrum(x: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x, n=12, dim=1) * torch.exp(torch.arange(7.0)[:, None] * 1j), n=12, dim=1)


@mended
def inverse_spectrum(x: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x))


@mended
def distances(x: Tensor) -> Tensor:
    return torch.cdist(x, x[:, :3] + 1) + torch.cdist(x, x[:, 2:5] + 1, p=1.0)


@mended
def complex(x: Tensor) -> Tensor:
    turned = torch.view_as_complex(x.unflatten(-1, (4, 2)))
    table = torch.polar(torch.ones(6, 4), torch.arange(24.0).view(6, 4)) * 1.5
    return torch.view_as_real(turned * table[None] + 2.0 * turned.unsqueeze(1).expand(-1, 3, -1, -1).sum(1)).flatten(2)


@mended
def among_others(x: Tensor) -> Tensor:
    tokens, special = (x * 3).round().long(), torch.arange(3) - 1
    return x * torch.isin(tokens, special) + torch.isin(tokens, special[None], invert=True)


@mended
def put(x: Tensor) -> Tensor:
    mask, y = x[0, :, 0] > 0, x.clone()
    y[:, mask] = x[:, mask] * 2
    y[:, :, torch.arange(8) > 4] = x[0, 0, 0]
    return y


@mended
def volumes(x: Tensor) -> Tensor:
    weight = torch.arange(16.0).view(2, 1, 2, 2, 2)
    volumes = x.view(-1, 1, 6, 2, 4)
    return nn.functional.conv3d(volumes, weight) + nn.functional.conv3d(volumes, weight, torch.ones(2), padding=(0, 0, 0))


@mended
def powers(x: Tensor) -> Tensor:
    whole = (x * 3).round().long()
    powers = torch.tensor(1000000007) ** torch.arange(8) % 1000 + whole**3 + 0 ** (whole.abs() + (1 << 20))
    return x + powers + (whole.sign() ** (whole - 2)) + (2 + whole.abs()) ** (whole.clamp(max=2) - 3)


@mended
def quotients_of_integers(x: Tensor) -> Tensor:
    whole = (x * 1000).round().long() * 100_003  # beyond the integers of single precision
    trunc, floor = (torch.div(whole, 7, rounding_mode=mode) for mode in ("trunc", "floor"))
    return x + trunc % 1000 + floor % 1000 + torch.div(whole, whole[:, :1].abs() - 50, rounding_mode="trunc") % 1000


@mended
def sums_of_integers(x: Tensor) -> Tensor:
    hashes = (x * 1000).round().long() * 1310371569704371 + 7  # their sums leave what real numbers hold
    return x + hashes.sum(1, keepdim=True) % 1000 + hashes.sum() % 1000 + hashes[:, 0].sum((0, 1)) % 7


@mended
def squeezed(x: Tensor) -> Tensor:
    return x.squeeze(1).squeeze((0, 2)) + x.unsqueeze(2).squeeze((1, 2))


@mended
def quantiles(x: Tensor) -> Tensor:
    return x * torch.distributions.Normal(0, 1).icdf(x.sigmoid()) + torch.erfinv(x.clamp(-2, 1))


@mended
def so_far(x: Tensor) -> Tensor:
    values, places = (x * 3).round().cummax(dim=1)
    return values + places * x + (x > 0).long().cummax(dim=-1).indices + x.cummin(dim=1).values


@mended
def complex_without_gradients(x: Tensor) -> Tensor:
    with torch.no_grad():
        table = torch.polar(torch.ones(6, 4), torch.arange(24.0).view(6, 4) * x[:1, :1, :1])
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (4, 2))) * table.detach()).flatten(2)


@mended
def sorted(x: Tensor) -> Tensor:
    order = (x > 0.5).long().argsort(dim=1, stable=True)
    values, places = (x > 0).float().sort(dim=1, descending=True, stable=True)
    return x.gather(1, order) + values + places


@mended
def counted(x: Tensor) -> Tensor:
    near = torch.bucketize(x, torch.tensor([-1.0, 0.0, 0.0, 1.0])) + torch.bucketize(
        x.round(), torch.tensor([-1.0, 1.0]), right=True
    )
    rows = x.detach().abs().cumsum(-1).round()
    near += torch.searchsorted(rows, x.round()) + torch.searchsorted(rows, x.round(), side="right")
    near += torch.searchsorted(torch.tensor([-1.0, 0.0, 0.0, 1.0]), x.round(), right=True)
    return near.float() * torch.histc(x.round().clamp(0, 4), bins=5, min=0, max=4).sum()


@mended
def as_it_lies_in_memory(x: Tensor) -> Tensor:
    turned = x.transpose(0, 1).clone(memory_format=torch.preserve_format)  # (6, 2, 8), two lying before six
    return x + torch.as_strided(turned, (6, 8), (16, 1), 3).sum() + torch.as_strided(turned, (4,), (7,)).sum()


@mended
def steps_of_real_numbers(x: Tensor) -> Tensor:
    near = torch.arange(1 / 6, 1.0, 1 / 6)
    return x + (near <= torch.arange(1, 7).unsqueeze(-1) / 6).long().sum() * near[0]


@mended
def a_mask_from_one(x: Tensor) -> Tensor:
    return (1.0 - (x > 0).long()) * 0.5


@mended
def with_a_vector(x: Tensor) -> Tensor:
    vector = torch.arange(6.0)
    summed = x.transpose(1, 2) @ vector + nn.functional.linear(x.transpose(1, 2), vector) + torch.addmv(x[0, 0], x[0].T, vector)
    return x + summed.unsqueeze(1) + torch.mv(x[0].T, vector)


@mended
def dims_behind_an_ellipsis(x: Tensor) -> Tensor:
    return x * torch.einsum("...i,...i->...", x, torch.arange(8.0)).unsqueeze(-1)


@mended
def signs(x: Tensor) -> Tensor:
    zeros = x * 0  # of both signs
    return torch.copysign(x, zeros[:, :1]) + torch.copysign(zeros, x + 1).reciprocal().clamp(-1, 1) + torch.copysign(x, -0.0)


@mended
def hypotenuses(x: Tensor) -> Tensor:
    return torch.hypot(x.relu(), x[:, :1].relu()) + torch.hypot(x * 1e30, x * 1e30) / 1e30


@mended
def without_nan(x: Tensor) -> Tensor:
    return torch.fmax(x.log(), x) + torch.fmin(x, x.sqrt()) + torch.fmax((x * 3).long(), (x > 0).long())


@mended
def in_the_middle(x: Tensor) -> Tensor:
    values, places = x.median(dim=1, keepdim=True)
    third, where = x.kthvalue(3, dim=-1)
    return values + places * x + (third + where).unsqueeze(-1) + x.median()


@mended
def extremes(x: Tensor) -> Tensor:
    least, most = x.aminmax()
    return (x - x.amax()) / x.amin(()) + least + most


@mended
def products_so_far(x: Tensor) -> Tensor:
    return x.cumprod(1) + (x * 3).long().cumprod(-1)


@mended
def fewer_indices_than_values(x: Tensor) -> Tensor:
    index = torch.tensor([[[0, 2, 5], [1, 3, 4]]]).transpose(1, 2).expand(2, -1, -1)
    return x.scatter(1, index, x * 2).scatter_add(1, index * 0, x) + x.scatter_reduce(1, index, x * 3, "amax")


@mended
def means_of_what_is_scattered(x: Tensor) -> Tensor:
    index = (x * 5).long().abs() % 6
    alone = x.scatter_reduce(1, index, x.exp(), "mean", include_self=False)
    return alone + x.scatter_reduce(1, index, x.exp(), "mean") + (x * 9).long().scatter_reduce(1, index, index - 3, "mean")


@mended
def pools_of_unequal_windows(x: Tensor) -> Tensor:
    volumes = x.view(-1, 6, 4, 2)[:, None]
    best, places = nn.functional.adaptive_max_pool2d(x.round()[:, None], (4, 3), return_indices=True)
    three = nn.functional.adaptive_max_pool3d(volumes, (4, 3, 1)) + nn.functional.adaptive_avg_pool3d(volumes, (4, 3, 1))
    return (best + places).flatten(1) + three.flatten(1) + nn.functional.adaptive_max_pool1d(x, 5).mean((1, 2))[:, None]


@pytest.mark.parametrize("function", MENDED, ids=lambda each: each.__name__)
def test_an_op_written_otherwise_is_the_same(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    x = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    done = export_onnx(Model(), (x,), {}, tmp_path / "mended.onnx")
    assert done.difference < 1e-5
    assert "batch" in done.open


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "bias": False}], ids=["plain", "deep"])
def test_a_projected_recurrence_is_written_step_by_step(options: dict[str, object], tmp_path: Path) -> None:
    model = nn.LSTM(6, 8, proj_size=4, batch_first=True, **options).eval()  # type: ignore[arg-type]
    done = export_onnx(model, (torch.randn(2, 5, 6),), {}, tmp_path / "lstm.onnx")
    assert done.difference < 1e-5
    assert done.open == "batch"
