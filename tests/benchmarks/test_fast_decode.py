from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.fast_decode import compared, enlarged
from models.bundle import load_bundle
from tests.offline import encoded
from tests.service.bundle_factory import make_bundle


def photo(seed: int) -> bytes:
    colours = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return encoded(Image.fromarray(colours).resize((160, 120), Image.Resampling.BICUBIC), "JPEG")


def test_both_ways_of_decoding_are_compared_by_what_the_graph_says(tmp_path: Path) -> None:
    bundle = load_bundle(make_bundle(tmp_path / "tiny"))
    photos = [photo(seed) for seed in range(4)]

    small, large = compared(bundle, photos), compared(bundle, [enlarged(data, 0.5) for data in photos])

    assert (small["images"], large["images"]) == (4, 4)
    assert large["megapixels"] == 0.5
    assert large["changed"] == 4
    assert 35 < large["pixels_db"] < 90
    assert 0.99 < large["cosine_least"] <= large["cosine_mean"] < 1.0001
