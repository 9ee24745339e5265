"""What `CANDOR_DECODE=fast` saves, and what it changes of embeddings and uncertainty.

    python -m benchmarks.fast_decode --data DATA --out benchmarks/results/fast-decode.json

DATA holds imagenet-sample-100/. Each photo is decoded as it is, and enlarged to 2 and to 12 megapixels, as a JPEG of
quality 90; both ways of decoding go through the same graph.
"""

import argparse
import io
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.photos import FOLDER, find_photos
from models.bundle import Bundle, load_bundle
from models.images import ImageLimits, decode_image
from scripts.common import write_json
from service.decoding import Prepare, preparation
from service.lanes import Outputs
from service.session import open_session
from service.settings import Decode, Device, Settings
from uncertainty.metrics import spearman

MEGAPIXELS = (None, 2.0, 12.0)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    options = _arguments().parse_args(argv)
    bundle = load_bundle(options.bundle)
    photos = [path.read_bytes() for path in find_photos(options.data / FOLDER)]
    rows = []
    for megapixels in MEGAPIXELS:
        rows.append(compared(bundle, [data if megapixels is None else enlarged(data, megapixels) for data in photos]))
        print(rows[-1], flush=True)
    command = shlex.join(["python", "-m", "benchmarks.fast_decode", *(sys.argv[1:] if argv is None else argv)])
    write_json(options.out, {"command": command, "bundle": bundle.manifest.name, "rows": rows})


def enlarged(data: bytes, megapixels: float) -> bytes:
    """The photo with so many pixels, as a JPEG."""
    image = decode_image(data, ImageLimits())
    scale = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
    buffer = io.BytesIO()
    size = (round(image.width * scale), round(image.height * scale))
    image.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def compared(bundle: Bundle, photos: Sequence[bytes]) -> dict[str, Any]:
    """Milliseconds of decoding an image either way, and how alike are what the graph then says."""
    (exact, exact_ms), (fast, fast_ms) = (
        _decoded(photos, preparation(bundle.preprocessing, Settings(decode=decode))) for decode in Decode
    )
    session = open_session(bundle, Settings(device=Device.CPU, autotune=False, max_batch=1))
    said = [_run([session.run([pixels]) for pixels in images]) for images in (exact, fast)]
    cosine = (said[0].embedding * said[1].embedding).sum(axis=1)
    percentile = [bundle.uncertainty_percentile(outputs.uncertainty) for outputs in said]
    error = np.mean([np.mean((a.astype(float) - b) ** 2) for a, b in zip(exact, fast, strict=True)])
    return {
        "megapixels": round(float(np.mean([_pixels(data) for data in photos])) / 1e6, 2),
        "images": len(photos),
        "changed": sum(not np.array_equal(a, b) for a, b in zip(exact, fast, strict=True)),
        "exact_ms": round(exact_ms, 2),
        "fast_ms": round(fast_ms, 2),
        "pixels_db": round(float(10 * np.log10(255**2 / max(error, 1e-9))), 1),
        "cosine_mean": round(float(cosine.mean()), 5),
        "cosine_least": round(float(cosine.min()), 5),
        "uncertainty_spearman": round(spearman(said[0].uncertainty, said[1].uncertainty), 5),
        "percentile_change_most": round(float(np.abs(percentile[0] - percentile[1]).max()), 4),
    }


def _decoded(photos: Sequence[bytes], prepare: Prepare) -> tuple[list[NDArray[np.uint8]], float]:
    started = time.process_time()
    pixels = [prepare(data) for data in photos]
    return pixels, 1000 * (time.process_time() - started) / len(photos)


def _run(outputs: Sequence[Outputs]) -> Outputs:
    return Outputs(*(np.concatenate([getattr(each, name) for each in outputs]) for name in Outputs.__annotations__))


def _pixels(data: bytes) -> int:
    with Image.open(io.BytesIO(data)) as image:
        return image.width * image.height


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--bundle", type=Path, default=Settings.model_fields["bundle"].default)
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    main()
