"""Pictures of which the tiny bundle is as unsure as a test wants."""

import io

import numpy as np
from PIL import Image


def picture(contrast: float, seed: int = 0) -> bytes:
    """PNG bytes: blocks of random colours, pulled towards grey; less contrast, more uncertainty."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.float64)
    pulled = 128 + contrast * (blocks - 128)
    buffer = io.BytesIO()
    Image.fromarray(pulled.astype(np.uint8)).resize((48, 36), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def pictures(count: int) -> list[tuple[str, bytes]]:
    """Files from the surest to the least sure, each with another picture."""
    return [
        (f"p{number:03}.png", picture(contrast, number)) for number, contrast in enumerate(np.linspace(1, 0.05, count))
    ]
