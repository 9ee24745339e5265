"""The learning-rate schedule of every training."""

import math


def warm_cosine(step: int, total: int, warm: float = 0.05) -> float:
    """Learning-rate factor: linear to 1 over the first 5 % of the steps, then a half cosine down to 0."""
    done = (step + 0.5) / total
    return done / warm if done < warm else 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm)))
