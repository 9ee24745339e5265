"""Training losses, each a function of tensors."""

import torch
from torch import Tensor
from torch.nn import functional as F


def cosine_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of 1 - cosine between projected student and standardised teacher representations, both (b, d)."""
    return (1 - F.cosine_similarity(student, teacher, dim=1)).mean()


def pairwise_ranking(uncertainty: Tensor, loss: Tensor, margin: float = 0.1) -> Tensor:
    """Hinge over every pair of a batch: the image of higher loss must be more uncertain by `margin`.

    Pairs of equal loss say nothing and are masked; (b,), (b,) -> scalar.

    Source: the PVU ranking loss (Kirchhof et al., arXiv:2402.16569), over all pairs instead of neighbouring ones.
    """
    first, second = torch.triu_indices(len(loss), len(loss), offset=1, device=loss.device)
    return _hinge(uncertainty[first] - uncertainty[second], loss[first] - loss[second], margin)


def neighbour_ranking(uncertainty: Tensor, loss: Tensor, margin: float = 0.1) -> Tensor:
    """The published form: the same hinge over items 0 and 1, 2 and 3, ... of a batch; (b,), (b,) -> scalar.

    Source: Kirchhof et al., arXiv:2402.16569.
    """
    end = len(loss) // 2 * 2
    first, second = slice(0, end, 2), slice(1, end, 2)
    return _hinge(uncertainty[first] - uncertainty[second], loss[first] - loss[second], margin)


def squared_error(uncertainty: Tensor, loss: Tensor) -> Tensor:
    """The regression form of loss prediction; (b,), (b,) -> scalar.

    Source: Yoo & Kweon, arXiv:1905.03677, as used in the URL benchmark (arXiv:2307.03810).
    """
    return F.mse_loss(uncertainty, loss)


def _hinge(uncertainty_gap: Tensor, loss_gap: Tensor, margin: float) -> Tensor:
    told_apart = loss_gap != 0
    if not told_apart.any():
        return uncertainty_gap.sum() * 0.0
    return F.relu(margin - torch.sign(loss_gap) * uncertainty_gap)[told_apart].mean()
