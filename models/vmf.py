"""The von Mises-Fisher distribution on the unit sphere of R^d: normaliser, mean resultant length, samples.

Its density at a unit vector z is C_d(kappa) exp(kappa mu.z), with C_d(kappa) = kappa^v / ((2 pi)^(d/2) I_v(kappa)),
v = d/2 - 1 and I_v the modified Bessel function of the first kind. Everything that depends on kappa is computed in
float64, for any d from 2 and any kappa above 0.
"""

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

DEBYE_ORDER = 24  # from this order of I_v on, DEBYE_TERMS leave a relative error below 1e-13 at any kappa
DEBYE_TERMS = 8
NODES = 24  # of the quadrature behind the gradient of a sample
TAIL = 12.0  # standard deviations, or more, after which the density is nothing


def log_normaliser(kappa: Tensor, dimension: int) -> Tensor:
    """Log of C_d(kappa), of the shape and type of `kappa`; its gradient is minus the mean resultant length.

    Raises:
        ValueError: where the dimension is below 2.

    Source: uniform expansion of I_v for large order (DLMF 10.41.3), taken down to v by the recurrence of the ratios
    I_{v+1} / I_v (DLMF 10.29.1), which is stable in that direction.
    """
    value: Tensor = _LogNormaliser.apply(kappa, _checked(dimension))
    return value


def mean_resultant_length(kappa: Tensor, dimension: int) -> Tensor:
    """Length A_d(kappa) = I_{d/2}(kappa) / I_{d/2-1}(kappa) of the mean, of the shape and type of `kappa`."""
    _, ratio = _solve(kappa.double(), _checked(dimension))
    return (kappa.double() * ratio).to(kappa.dtype)


def concentration_of(length: float, dimension: int) -> float:
    """The kappa at which the mean resultant length is about `length`, to a few percent.

    Source: Banerjee et al., "Clustering on the Unit Hypersphere using von Mises-Fisher Distributions" (JMLR 2005).
    """
    return length * (dimension - length**2) / (1 - length**2)


def sample_vmf(mean: Tensor, kappa: Tensor, count: int) -> Tensor:
    """Samples (count, b, d) for `mean` (b, d), of unit length, and `kappa` (b,), with pathwise gradients to both.

    The angle to the mean comes from rejection; its gradient is that of the quantile it stands for, which unlike the
    gradient through the accepted proposal is unbiased. A change of the mean turns a sample along with it, in the
    plane of the change. Random numbers are those of torch's global state.

    Source: Wood, "Simulation of the von Mises Fisher distribution" (Comm. Stat. 1994); Davidson et al., "Hyperspherical
    Variational Auto-Encoders" (UAI 2018), arXiv:1804.00891; Figurnov et al. (NeurIPS 2018), arXiv:1805.08498.
    """
    dimension = _checked(mean.shape[-1])
    angle: Tensor = _PolarAngle.apply(kappa, dimension, count)  # (count, b)
    angle = angle.to(mean.dtype).unsqueeze(-1)  # (count, b, 1)
    pole = mean.detach()
    noise = torch.randn((count, *mean.shape), dtype=mean.dtype, device=mean.device)
    tangent = F.normalize(noise - (noise * pole).sum(dim=-1, keepdim=True) * pole, dim=-1)  # (count, b, d)
    carried = tangent - (tangent * mean).sum(dim=-1, keepdim=True) * pole  # `tangent`, but for its gradient
    return angle.cos() * mean + angle.sin() * carried


def _checked(dimension: int) -> int:
    if dimension < 2:
        raise ValueError(f"a von Mises-Fisher distribution needs dimension 2 or more, not {dimension}")
    return dimension


class _LogNormaliser(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kappa: Tensor, dimension: int) -> Tensor:
        value, ratio = _solve(kappa.double(), dimension)
        ctx.save_for_backward((kappa * ratio).to(kappa.dtype))
        return value.to(kappa.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (length,) = ctx.saved_tensors
        return -gradient * length, None


def _solve(kappa: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
    """Log C_d(kappa) and I_{v+1}(kappa) / (kappa I_v(kappa)), both finite and smooth down to kappa = 0."""
    order = dimension / 2 - 1
    steps = max(0, math.ceil(DEBYE_ORDER - order))
    value, ratio = _debye(kappa, order + steps)
    square = kappa * kappa
    for step in range(steps):
        ratio = 1 / (2 * (order + steps - step) + square * ratio)
        value = value + ratio.log()
    return value - dimension / 2 * math.log(2 * math.pi), ratio


def _debye(kappa: Tensor, order: float) -> tuple[Tensor, Tensor]:
    """Log of kappa^v / I_v(kappa), and I_{v+1}(kappa) / (kappa I_v(kappa)), for a large order v.

    With w^2 = v^2 + kappa^2, I_v is e^w (kappa / (v + w))^v S / sqrt(2 pi w), where S is a series in 1/w and v^2/w^2.
    The ratio is the derivative of log(I_v / kappa^v), over kappa.
    """
    w = (order**2 + kappa * kappa).sqrt()
    series, slope = _debye_series(w, order)
    value = order * (order + w).log() - w + 0.5 * (2 * math.pi * w).log() - series.log()
    return value, 1 / (order + w) + (slope / series - 0.5) / w**2


def _debye_series(w: Tensor, order: float) -> tuple[Tensor, Tensor]:
    """S = sum of c_kj w^-k (v/w)^2j, and w dS/dw."""
    coefficients, degrees = (table.to(w.device) for table in _debye_coefficients())  # each (terms, terms)
    left, right = (
        torch.linalg.vander(base.unsqueeze(-1), N=DEBYE_TERMS).squeeze(-2)  # (..., terms), powers from 0
        for base in (w.reciprocal(), (order / w).square())
    )
    return ((left @ coefficients) * right).sum(-1), -((left @ (degrees * coefficients)) * right).sum(-1)


@cache
def _debye_coefficients() -> tuple[Tensor, Tensor]:
    """c_kj, with which U_k(p) = sum of c_kj p^(k + 2j) (DLMF 10.41.9), and the degrees k + 2j, each (terms, terms)."""
    table, degrees = np.zeros((2, DEBYE_TERMS, DEBYE_TERMS + 1))
    table[0, 0] = 1.0
    for k, j in np.ndindex(DEBYE_TERMS, DEBYE_TERMS):
        m = degrees[k, j] = k + 2 * j
        if k + 1 < DEBYE_TERMS:
            table[k + 1, j] += table[k, j] * (m / 2 + 1 / (8 * (m + 1)))
            table[k + 1, j + 1] -= table[k, j] * (m / 2 + 5 / (8 * (m + 3)))
    return torch.from_numpy(table[:, :-1]), torch.from_numpy(degrees[:, :-1])


class _PolarAngle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kappa: Tensor, dimension: int, count: int) -> Tensor:
        angle = _draw_angle(kappa.double().expand(count, -1).flatten(), dimension).view(count, -1)  # (count, b)
        ctx.save_for_backward(kappa, angle)
        ctx.dimension = dimension
        return angle

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        kappa, angle = ctx.saved_tensors
        slope = quantile_slope(angle, kappa.double(), ctx.dimension)
        return (gradient * slope).sum(dim=0).to(kappa.dtype), None, None


def _draw_angle(kappa: Tensor, dimension: int) -> Tensor:
    """One angle to the mean for each kappa (n,): proposals until every one is accepted."""
    angle = torch.empty_like(kappa)
    open_rows = torch.arange(len(kappa), device=kappa.device)
    while len(open_rows):
        proposal, rejected = _propose_angle(kappa[open_rows], dimension)
        angle[open_rows[~rejected]] = proposal[~rejected]
        open_rows = open_rows[rejected]
    return angle


def _propose_angle(kappa: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
    """Wood's proposal (n,), in terms that lose nothing where the angle is small, and whether to reject it.

    A kappa that is not a number is never rejected, so that it shows in the result.
    """
    m = dimension - 1
    b = m / (2 * kappa + (4 * kappa**2 + m**2).sqrt())
    share = torch.distributions.Beta(kappa.new_tensor(m / 2), kappa.new_tensor(m / 2)).sample(kappa.shape)
    angle = 2 * torch.atan2((b * share).sqrt(), (1 - share).sqrt())
    fall, most = 2 * (angle / 2).sin() ** 2, 2 * b / (1 + b)  # 1 - cos(angle), and the same where the ratio peaks
    log_ratio = kappa * (most - fall) + m * ((most + (1 - most) * fall) / (most * (2 - most))).log()
    return angle, log_ratio < torch.rand_like(kappa).log()


def quantile_slope(angle: Tensor, kappa: Tensor, dimension: int) -> Tensor:
    """Derivative by kappa (b,) of the angles (count, b), each seen as a quantile of its distribution.

    It is minus the derivative of the distribution function by kappa, over the density. The function is integrated by
    Gauss-Legendre quadrature from the angle outwards, on the side where the density falls.
    """
    nodes, weights = (torch.as_tensor(part, device=angle.device) for part in _legendre())
    spread = 2 / (dimension - 2 + ((dimension - 2) ** 2 + 4 * kappa**2).sqrt())
    cosine = kappa * spread  # at the mode
    left = angle.cos() > cosine
    reach = torch.minimum(TAIL * spread.sqrt(), torch.where(left, angle, math.pi - angle))
    start, away = angle.unsqueeze(-1), torch.where(left, -reach, reach).unsqueeze(-1)
    at = start + away * nodes  # (count, b, nodes)
    log_sine = torch.xlogy(dimension - 2, at.sin() / start.sin())
    relative = (kappa.unsqueeze(-1) * (at.cos() - start.cos()) + log_sine).exp()
    excess = at.cos() - mean_resultant_length(kappa, dimension).unsqueeze(-1)
    return away.squeeze(-1) * ((excess * relative) @ weights)


@cache
def _legendre() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return (nodes + 1) / 2, weights / 2
