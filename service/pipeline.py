"""From image bytes to an embedding with its uncertainty: decode in threads, infer in batches, one image one outcome.

A lane decodes what reaches it encoded; decoders before the lanes keep those free where they are fewer than the cores.
"""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.images import ImageError
from service.batcher import Admission, Batcher
from service.decoding import Decoded, Source, decode_source, decode_workers, preparation
from service.errors import InferenceFailed, Problem, Unavailable, UnreadableImage
from service.session import Session
from service.settings import Settings
from service.stages import note_stage
from service.telemetry import BundleMetrics, Logger


@dataclass(frozen=True)
class Timing:
    """Seconds of one image in each stage; `queue_s` is all the rest, waiting for a decoder and for a lane."""

    decode_s: float
    queue_s: float
    inference_s: float


def timing_ms(timings: Sequence[Timing]) -> dict[str, float]:
    """Milliseconds per stage, of the slowest image."""
    return {
        "decode": round(1000 * max((timing.decode_s for timing in timings), default=0.0), 3),
        "queue": round(1000 * max((timing.queue_s for timing in timings), default=0.0), 3),
        "inference": round(1000 * max((timing.inference_s for timing in timings), default=0.0), 3),
    }


@dataclass(frozen=True)
class Scores:
    """What the graph and the bundle's reference set say of one image; `embedding` is (D,) float32 of unit L2 norm."""

    embedding: NDArray[np.float32]
    uncertainty: float
    percentile: float
    novelty: float
    novelty_percentile: float


@dataclass(frozen=True)
class Embedded:
    """One image's scores and what they took."""

    scores: Scores
    timing: Timing


@dataclass(frozen=True)
class Inferred:
    """What a lane gives of one image, and when decoding and the inference it was in began and what they took."""

    scores: Scores
    decode_started: float
    decode_s: float
    inference_started: float
    inference_s: float
    batch_size: int


Outcome = Embedded | Problem


class Pipeline:
    """Owns the decoder threads and the batcher; every request's images pass through here."""

    def __init__(
        self, bundle: Bundle, session: Session, settings: Settings, metrics: BundleMetrics, logger: Logger
    ) -> None:
        self.admission = Admission(settings.queue_per_worker)
        self._bundle = bundle
        self._session = session
        self._prepare = preparation(bundle.preprocessing, settings)
        self._metrics = metrics
        self._ok = metrics.images.labels("ok")
        self._decode, self._queue, self._inference = (
            metrics.stage_seconds.labels(stage) for stage in ("decode", "queue", "inference")
        )
        self._logger = logger
        decoders = decode_workers(settings, session.device, session.tuning)
        self._decoders = ThreadPoolExecutor(decoders, "candor-decode") if decoders else None
        self._decoding = 0  # images that decoders have and a lane will get
        self._batcher: Batcher[Source | Decoded, Inferred] = Batcher(
            self._run,
            max_batch=session.tuning.max_batch,
            lanes=session.tuning.lanes,
            max_wait_s=settings.max_wait_ms / 1000,
            coming=lambda: self._decoding,
            on_batch=metrics.batch_size.observe,
            on_death=self._log_death,
        )

    @property
    def alive(self) -> bool:
        """Whether images are still being run."""
        return self._batcher.alive

    @property
    def waiting(self) -> int:
        """Images that wait for a lane."""
        return self._batcher.waiting

    def busy_s(self) -> float:
        """Seconds that the inference now running has taken so far."""
        return self._batcher.busy_s()

    async def embed(self, sources: Sequence[Source | Decoded]) -> list[Outcome]:
        """Embed the images of one request, encoded or decoded; each has its own outcome, in the same order.

        Raises:
            Overloaded: where the queue has no room for all of them.
            Unavailable: when the inference loop has died.
        """
        with self.admission.hold(len(sources)):
            if len(sources) == 1:
                outcomes = [await self._embed_one(sources[0])]
            else:
                outcomes = await _gather([self._embed_one(source) for source in sources])
        for outcome in outcomes:
            self._observe(outcome)
        return outcomes

    async def close(self) -> None:
        """Finish what runs, drop what waits."""
        await self._batcher.close()
        if self._decoders is not None:
            await asyncio.to_thread(self._decoders.shutdown, cancel_futures=True)

    def _log_death(self, error: BaseException) -> None:
        self._logger.error("the inference loop has died; restart this process", exc_info=error)

    async def _embed_one(self, source: Source | Decoded) -> Outcome:
        admitted = time.perf_counter()
        try:
            done = await self._batcher.submit(await self._decode_ahead(source))
        except ImageError as error:
            return UnreadableImage(error)
        except Unavailable:
            raise
        except Problem as problem:
            return problem
        except Exception as error:
            self._logger.error("image failed", exc_info=error)
            return InferenceFailed(f"the model failed on this image ({type(error).__name__}); the log says more")
        _note_stages(admitted, done)
        queue_s = max(0.0, time.perf_counter() - admitted - done.decode_s - done.inference_s)
        return Embedded(done.scores, Timing(done.decode_s, queue_s, done.inference_s))

    async def _decode_ahead(self, source: Source | Decoded) -> Source | Decoded:
        """Decoded, unless the lanes do that."""
        if self._decoders is None or isinstance(source, Decoded):
            return source
        self._decoding += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._decoders, decode_source, source, self._prepare)
        finally:
            self._decoding -= 1

    def _run(self, items: Sequence[Source | Decoded]) -> list[Inferred | Exception]:
        """Decode what is not decoded yet, and infer; runs on a lane's thread."""
        decoded = [item if isinstance(item, Decoded) else self._decode_or_fail(item) for item in items]
        inferred = iter(self._infer([image for image in decoded if isinstance(image, Decoded)]))
        return [next(inferred) if isinstance(image, Decoded) else image for image in decoded]

    def _decode_or_fail(self, source: Source) -> Decoded | Exception:
        try:
            return decode_source(source, self._prepare)
        except Exception as error:
            return error

    def _infer(self, images: Sequence[Decoded]) -> list[Inferred]:
        if not images:
            return []
        started = time.perf_counter()
        outputs = self._session.run([image.pixels for image in images])
        inference_s = time.perf_counter() - started
        for name in ("embedding", "uncertainty", "novelty"):
            if not np.isfinite(getattr(outputs, name)).all():
                raise FloatingPointError(f"{name} is not finite")
        columns = zip(
            outputs.embedding,
            outputs.uncertainty.tolist(),
            self._bundle.uncertainty_percentile(outputs.uncertainty).tolist(),
            outputs.novelty.tolist(),
            self._bundle.novelty_percentile(outputs.novelty).tolist(),
            strict=True,
        )
        scores = [Scores(*row) for row in columns]
        return [
            Inferred(of, image.started, image.seconds, started, inference_s, len(images))
            for of, image in zip(scores, images, strict=True)
        ]

    def _observe(self, outcome: Outcome) -> None:
        if isinstance(outcome, Problem):
            self._metrics.images.labels(outcome.type).inc()
            return
        metrics, timing, scores = self._metrics, outcome.timing, outcome.scores
        self._ok.inc()
        self._decode.observe(timing.decode_s)
        self._queue.observe(timing.queue_s)
        self._inference.observe(timing.inference_s)
        metrics.uncertainty_percentile.observe(scores.percentile)
        metrics.novelty_percentile.observe(scores.novelty_percentile)


def _note_stages(admitted: float, done: Inferred) -> None:
    """An image waits before it is decoded, and again before it is inferred."""
    decoded = done.decode_started + done.decode_s
    note_stage("queue", admitted, done.decode_started)
    note_stage("decode", done.decode_started, decoded)
    note_stage("queue", decoded, done.inference_started)
    inferred = done.inference_started + done.inference_s
    note_stage("inference", done.inference_started, inferred, batch_size=done.batch_size)


async def _gather(coroutines: Sequence[Coroutine[Any, Any, Outcome]]) -> list[Outcome]:
    """All results in order; when one raises, the others are cancelled and waited for."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]
