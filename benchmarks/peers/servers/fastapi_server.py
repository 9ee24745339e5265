"""FastAPI and onnxruntime as people write it: a session per process, a sync endpoint in the thread pool, no batching.

uvicorn benchmarks.peers.servers.fastapi_server:app --workers N
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Body, FastAPI, Request
from pydantic import BaseModel

from benchmarks.peers.servers.work import Graph, decode, read_config

CONFIG = read_config()


class Answer(BaseModel):
    """One image's embedding and uncertainty."""

    embedding: list[float]
    uncertainty: float


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the graph once per process, as FastAPI's documentation does."""
    app.state.graph = Graph(CONFIG)
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/embed")
def embed(image: Annotated[bytes, Body(media_type="image/jpeg")], request: Request) -> Answer:
    """Embed one image; runs in the thread pool."""
    embedding, uncertainty = request.app.state.graph.run([decode(image, CONFIG)])
    return Answer(embedding=embedding[0].tolist(), uncertainty=float(uncertainty[0]))
