"""mosec: one stage that does all, or a stage that decodes before one that infers in batches.

python -m benchmarks.peers.servers.mosec_server --address 127.0.0.1 --port PORT
"""

import json
from typing import Any

import numpy as np
from mosec import Server, Worker  # type: ignore[import-not-found, unused-ignore]
from mosec.errors import DecodingError  # type: ignore[import-not-found, unused-ignore]
from numpy.typing import NDArray

from benchmarks.peers.servers.work import Graph, decode, read_config

Pixels = NDArray[np.uint8]


class Decode(Worker):  # type: ignore[misc, unused-ignore]
    """Encoded bytes to pixels; the first stage."""

    def __init__(self) -> None:
        super().__init__()
        self.config = read_config()

    def deserialize(self, data: bytes) -> bytes:
        """The body is the image."""
        return data

    def forward(self, data: bytes) -> Pixels:
        """Decode, resize, crop."""
        try:
            return decode(data, self.config)
        except OSError as error:
            raise DecodingError from error


class CompactJson:
    """Answers as JSON on one line, which costs less than mosec's own that is indented."""

    def serialize(self, data: Any) -> bytes:
        """Last stage to body."""
        return json.dumps(data).encode()


class Infer(CompactJson, Worker):  # type: ignore[misc, unused-ignore]
    """Batches of pixels to answers; the second stage."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = Graph(read_config())

    def forward(self, data: list[Pixels]) -> list[dict[str, Any]]:
        """Run a batch."""
        return self.graph.answers(data)


class Embed(CompactJson, Decode):
    """Both in one stage, an image at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = Graph(self.config)

    def forward(self, data: bytes) -> dict[str, Any]:  # type: ignore[override]
        """Decode and run."""
        return self.graph.answers([super().forward(data)])[0]


def main() -> None:
    """Serve."""
    config = read_config()
    server = Server()
    if config.max_batch == 1:
        server.append_worker(Embed, num=config.workers, route="/embed")
    else:
        server.append_worker(Decode, num=config.workers, route="/embed")
        server.append_worker(Infer, max_batch_size=config.max_batch, max_wait_time=config.max_wait_ms, route="/embed")
    server.run()


if __name__ == "__main__":
    main()
