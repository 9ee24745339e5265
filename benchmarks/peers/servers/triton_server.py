"""Triton, through PyTriton: instances of a Python callable behind Triton's HTTP front and dynamic batcher.

python -m benchmarks.peers.servers.triton_server
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch  # type: ignore[import-not-found, unused-ignore]
from pytriton.model_config import (  # type: ignore[import-not-found, unused-ignore]
    DynamicBatcher,
    ModelConfig,
    Tensor,
)
from pytriton.triton import Triton, TritonConfig  # type: ignore[import-not-found, unused-ignore]

from benchmarks.peers.servers.work import Config, Graph, decode, read_config


class Embed:
    """One instance: a batch of encoded images in, embeddings and uncertainties out."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.graph = Graph(config)

    @batch  # type: ignore[untyped-decorator, unused-ignore]
    def __call__(self, image: NDArray[np.object_]) -> dict[str, NDArray[Any]]:
        """(B, 1) of bytes -> embedding (B, D) and uncertainty (B, 1)."""
        embedding, uncertainty = self.graph.run([decode(data, self.config) for data in image[:, 0]])
        return {"embedding": embedding, "uncertainty": uncertainty[:, None]}  # (B, 1)


def main() -> None:
    """Serve."""
    config = read_config()
    quiet = {"allow_grpc": False, "allow_metrics": False}
    triton_config = TritonConfig(http_address="127.0.0.1", http_port=config.port, **quiet)
    batcher = DynamicBatcher(max_queue_delay_microseconds=1000 * config.max_wait_ms)
    with Triton(config=triton_config) as triton:
        triton.bind(
            model_name="embed",
            infer_func=[Embed(config) for _ in range(config.workers)],
            inputs=[Tensor(name="image", dtype=bytes, shape=(1,))],
            outputs=[
                Tensor(name="embedding", dtype=np.float32, shape=(-1,)),
                Tensor(name="uncertainty", dtype=np.float32, shape=(1,)),
            ],
            config=ModelConfig(max_batch_size=config.max_batch, batcher=batcher),
        )
        triton.serve()


if __name__ == "__main__":
    main()
