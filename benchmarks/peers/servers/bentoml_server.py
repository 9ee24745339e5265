"""BentoML: workers that decode and infer, or workers that decode and a service behind them that batches adaptively.

bentoml serve benchmarks.peers.servers.bentoml_server:Embed --port PORT
bentoml serve benchmarks.peers.servers.bentoml_server:Decode --port PORT
"""

import asyncio
from typing import Any

import bentoml  # type: ignore[import-not-found, unused-ignore]
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.peers.servers.work import Graph, pixels_of, read_config

CONFIG = read_config()
QUIET = {"access": {"enabled": False}}


@bentoml.service(workers=CONFIG.workers, threads=2, logging=QUIET)  # type: ignore[untyped-decorator, unused-ignore]
class Embed:
    """An image in, its embedding and uncertainty out, one at a time on each thread."""

    def __init__(self) -> None:
        self.graph = Graph(CONFIG)

    @bentoml.api(route="/embed")  # type: ignore[untyped-decorator, unused-ignore]
    def embed(self, image: Image.Image, /) -> dict[str, Any]:
        """Embed one image, whose bytes are the body."""
        return self.graph.answers([pixels_of(image, CONFIG)])[0]


@bentoml.service(workers=1, logging=QUIET)  # type: ignore[untyped-decorator, unused-ignore]
class Infer:
    """The graph, in batches of what arrives together."""

    def __init__(self) -> None:
        self.graph = Graph(CONFIG)

    @bentoml.api(  # type: ignore[untyped-decorator, unused-ignore]
        batchable=True, max_batch_size=max(2, CONFIG.max_batch), max_latency_ms=60_000
    )
    def infer(self, images: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """(B, size, size, 3) -> B answers."""
        return self.graph.answers(images)  # type: ignore[arg-type]


@bentoml.service(workers=CONFIG.workers, logging=QUIET)  # type: ignore[untyped-decorator, unused-ignore]
class Decode:
    """Decodes, and asks the service that infers."""

    infer = bentoml.depends(Infer)

    @bentoml.api(route="/embed")  # type: ignore[untyped-decorator, unused-ignore]
    async def embed(self, image: Image.Image, /) -> dict[str, Any]:
        """Embed one image, whose bytes are the body."""
        pixels = await asyncio.to_thread(pixels_of, image, CONFIG)
        answers: list[dict[str, Any]] = await self.infer.to_async.infer(pixels[None])
        return answers[0]
