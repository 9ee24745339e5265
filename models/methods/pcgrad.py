"""PCGrad: where the gradients of two losses disagree, each gives up the part that goes against the other."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def backward_pcgrad(losses: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> None:
    """Set `.grad` of the parameters to the sum of the losses' gradients after projection.

    Every gradient is projected, for each other loss in random order, onto the normal plane of that loss's own gradient
    where their product is negative. What a loss does not reach counts as a gradient of zero.

    Source: Yu et al., "Gradient Surgery for Multi-Task Learning" (NeurIPS 2020), arXiv:2001.06782.
    """
    gradients = [_flat_gradient(loss, parameters) for loss in losses]  # each (p,)
    surgical = [projected(own, [g for j, g in enumerate(gradients) if j != i]) for i, own in enumerate(gradients)]
    total = torch.stack(surgical).sum(dim=0)
    start = 0
    for parameter in parameters:
        parameter.grad = total[start : start + parameter.numel()].view_as(parameter).clone()
        start += parameter.numel()


def projected(own: Tensor, others: Sequence[Tensor]) -> Tensor:
    """A gradient (p,) without what goes against each of the others (p,), taken in random order."""
    for index in torch.randperm(len(others)).tolist():
        other = others[index]
        product = own @ other
        if product < 0:
            own = own - product / (other @ other) * other
    return own


def _flat_gradient(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    flat = [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]
    return torch.cat([part.flatten() for part in flat])
