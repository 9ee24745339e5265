"""Whether an uncertainty follows corruption severity, human disagreement and foreign data; exact under ties."""

import numpy as np
from numpy.typing import NDArray

from uncertainty.checks import Floats, Integers, require_matrix, require_rows, require_vector
from uncertainty.metrics import auroc


def monotonicity(scores: Floats) -> float:
    """Mean over images of Kendall's tau-b between severity and uncertainty, in [-1, 1]; higher is better.

    1 where every image grows less sure with every step, 0 for an uncertainty that ignores severity. Severities are
    distinct, so that only ties of scores need the correction of tau-b. An image of one constant score, on which tau-b
    is undefined, counts as 0: it shows no trend.

    Args:
        scores: (s, n) uncertainty of the same n images at s ascending severities, row 0 the originals.

    Raises:
        ValueError: unless the scores are finite, non-empty and of at least two severities.

    Source: Kendall, "The treatment of ties in ranking problems" (Biometrika, 1945).
    """
    require_matrix("scores", scores)
    severities, images = scores.shape
    if severities < 2:
        raise ValueError("monotonicity needs at least two severities")
    ordered, untied = np.zeros(images), np.zeros(images)  # concordant less discordant pairs, and pairs not tied
    for low in range(severities - 1):
        above, below = scores[low + 1 :] > scores[low], scores[low + 1 :] < scores[low]  # (s - low - 1, n)
        ordered += above.sum(axis=0, dtype=np.float64) - below.sum(axis=0)
        untied += (above | below).sum(axis=0)
    pairs = severities * (severities - 1) / 2
    tau = np.divide(ordered, np.sqrt(pairs * untied), out=np.zeros(images), where=untied > 0)
    return float(tau.mean())


def vote_entropy(votes: Floats | Integers) -> NDArray[np.float64]:
    """(n, c) human votes by class, counts or shares -> (n,) entropy in nats, from 0 (all agree) to ln c.

    Raises:
        ValueError: unless the votes are finite and not negative, and every image has some.
    """
    share = _shares(votes)
    logarithm = np.log(share, where=share > 0.0, out=np.zeros_like(share))
    entropy: NDArray[np.float64] = 0.0 - np.sum(share * logarithm, axis=1)  # a minus sign would make -0.0
    return entropy


def ambiguity_auroc(
    uncertainty: Floats, votes: Floats | Integers, ambiguous: float = 0.8, agreed: float = 0.95
) -> float:
    """AUROC with which uncertainty tells images that people disagree on from those they agree on; 0.5 is chance.

    Images between the two bounds are left out: whether they are ambiguous is itself unclear.

    Args:
        uncertainty: (n,), higher is less sure; only ranks matter.
        votes: (n, c) human votes by class, counts or shares.
        ambiguous: an image is ambiguous where its top class has at most this share of the votes.
        agreed: an image is agreed on where its top class has at least this share.

    Raises:
        ValueError: unless shapes fit, 0 < ambiguous < agreed <= 1, and there are images of both kinds.
    """
    if not 0.0 < ambiguous < agreed <= 1.0:
        raise ValueError(f"bounds must be 0 < ambiguous < agreed <= 1, not {ambiguous} and {agreed}")
    top = _shares(votes).max(axis=1)  # (n,)
    require_rows(top.size, uncertainty=uncertainty)
    unclear, clear = top <= ambiguous, top >= agreed
    if not (unclear.any() and clear.any()):
        raise ValueError(f"{unclear.sum()} images are ambiguous and {clear.sum()} agreed on; both kinds are needed")
    kept = unclear | clear
    return auroc(uncertainty[kept], unclear[kept])


def ood_auroc(inside: Floats, outside: Floats) -> float:
    """Probability that an image from outside the distribution scores higher than one from inside, ties counting half.

    Args:
        inside: (n,) scores of images like the training set, higher is stranger; only ranks matter.
        outside: (m,) scores of the others.

    Raises:
        ValueError: unless both are finite and non-empty vectors.
    """
    require_vector("inside", inside)
    require_vector("outside", outside)
    return auroc(np.concatenate([inside, outside]), np.arange(inside.size + outside.size) >= inside.size)


def _shares(votes: Floats | Integers) -> NDArray[np.float64]:
    """(n, c) votes -> (n, c) shares that sum to 1 for each image."""
    require_matrix("votes", votes)
    counts = votes.astype(np.float64)
    total = counts.sum(axis=1, keepdims=True)  # (n, 1)
    if counts.min() < 0.0 or not total.all():
        raise ValueError("votes must not be negative, and every image needs one")
    share: NDArray[np.float64] = counts / total
    return share
