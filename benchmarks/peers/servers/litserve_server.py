"""LitServe: workers that decode and infer, with its dynamic batching where the configuration has batches.

python -m benchmarks.peers.servers.litserve_server
"""

from typing import Annotated, Any

import litserve  # type: ignore[import-not-found, unused-ignore]
import numpy as np
from fastapi import Body
from numpy.typing import NDArray

from benchmarks.peers.servers.work import Config, Graph, decode, read_config

Pixels = NDArray[np.uint8]


class Embed(litserve.LitAPI):  # type: ignore[misc, unused-ignore]
    """An image in, its embedding and uncertainty out."""

    config: Config
    graph: Graph

    def setup(self, device: str) -> None:
        """Load the graph in each worker."""
        self.config = read_config()
        self.graph = Graph(self.config)

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> Pixels:
        """Encoded bytes to pixels."""
        return decode(request, self.config)

    def batch(self, inputs: list[Pixels]) -> list[Pixels]:
        """A batch stays a list."""
        return inputs

    def predict(self, x: Any) -> Any:
        """One image, or a batch where batching is on."""
        return self.graph.answers(x) if isinstance(x, list) else self.graph.answers([x])[0]

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One answer per image."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """JSON."""
        return output


def main() -> None:
    """Serve."""
    config = read_config()
    api = Embed(max_batch_size=config.max_batch, batch_timeout=config.max_wait_ms / 1000, api_path="/embed")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=config.workers, fast_queue=True)
    server.run(host="127.0.0.1", port=config.port, log_level="warning", generate_client_file=False, access_log=False)


if __name__ == "__main__":
    main()
