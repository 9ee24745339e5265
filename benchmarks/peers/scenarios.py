"""What is measured of a server that runs: loads of each kind, with the CPU and the memory that they take."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.bare_loop import bare_pool, bare_processes, bare_single, describe_session
from benchmarks.load import LoadError, load
from benchmarks.open_loop import Offer, offer_load, summarise_offer
from benchmarks.peers.launch import Running
from benchmarks.peers.plan import (
    CONCURRENCIES,
    IMAGES_IN_FLIGHT,
    IMAGES_PER_REQUEST,
    LARGE,
    LARGE_CONCURRENCY,
    SIZES,
    Plan,
)
from benchmarks.process_memory import watching
from benchmarks.rounds import bare_round, served_round
from benchmarks.worker import Worker, worker
from service.cores import usable_cores
from service.settings import Settings


def main_round(running: Running, client: Worker, photos: Sequence[Path], plan: Plan, seed: int) -> dict[str, Any]:
    """Closed loops with many connections and with one, then an open loop at a share of what the first one carried."""
    warm_up(running, client, photos, plan)
    many = closed(running, client, photos, plan.concurrency, plan.closed_s)
    lone = closed(running, client, photos, 1, plan.lone_s)
    rate = plan.open_share * many["images_per_second"]
    opened = opened_loop(running, client, photos, Offer(rate, plan.open_s, plan.patience_s, seed))
    return {"many": many, "lone": lone, "open": opened}


def warm_up(running: Running, client: Worker, photos: Sequence[Path], plan: Plan) -> None:
    """Load that is not measured."""
    client.call(load, running.target, running.pid, photos[: plan.concurrency], plan.concurrency, plan.warm_up_s)


def closed(
    running: Running, client: Worker, photos: Sequence[Path], concurrency: int, seconds: float
) -> dict[str, Any]:
    """A closed loop.

    Raises:
        LoadError: where an answer is not 200.
    """
    with watching(running.pid) as peak:
        latencies, usage = client.call(load, running.target, running.pid, photos, concurrency, seconds)
    done = served_round(f"closed loop, {concurrency}", latencies, usage, running.target.images_per_request)
    return {**done.as_dict(), "peak_pss": peak.memory.pss, "peak_rss": peak.memory.rss}


def opened_loop(running: Running, client: Worker, photos: Sequence[Path], offer: Offer) -> dict[str, Any]:
    """An open loop, whatever the server answers."""
    with watching(running.pid) as peak:
        outcomes, usage = client.call(offer_load, running.target, running.pid, photos, offer)
    summary = summarise_offer(outcomes, offer)
    answered = max(1, summary["results"].get("200", 0))
    return {
        **summary,
        "cpu_ms_per_answer": 1000 * usage.cpu_seconds[0] / answered,
        "client_cores": usage.cpu_seconds[1] / usage.seconds,
        "peak_pss": peak.memory.pss,
        "peak_rss": peak.memory.rss,
        "alive": running.alive,
    }


def overload(running: Running, client: Worker, photos: Sequence[Path], capacity: float, plan: Plan) -> dict[str, Any]:
    """Twice what the server carries; `capacity` in images per second."""
    warm_up(running, client, photos, plan)
    offer = Offer(plan.overload_factor * capacity, plan.overload_s, plan.patience_s)
    result = opened_loop(running, client, photos, offer)
    return {**result, "capacity": capacity, "goodput_over_capacity": result["goodput_per_second"] / capacity}


def growth(running: Running, client: Worker, photos: dict[str, list[Path]], plan: Plan) -> dict[str, Any]:
    """Throughput as images grow, and as connections do; `photos` by the name of their size."""
    warm_up(running, client, photos["photo"], plan)
    sizes = {size: _point(running, client, photos[size], _connections(size, plan), plan.growth_s) for size in SIZES}
    many = {str(count): _point(running, client, photos["photo"], count, plan.growth_s) for count in CONCURRENCIES}
    return {"sizes": sizes, "concurrency": many}


def _connections(size: str, plan: Plan) -> int:
    return LARGE_CONCURRENCY if size == LARGE else plan.concurrency


def _point(
    running: Running, client: Worker, photos: Sequence[Path], concurrency: int, seconds: float
) -> dict[str, Any]:
    """As `closed`, but an answer that is not 200 fails this point alone."""
    try:
        return closed(running, client, photos, concurrency, seconds)
    except LoadError as error:
        return {"error": str(error)[:300]}


def images_per_request(running: Running, client: Worker, photos: Sequence[Path], plan: Plan) -> dict[str, Any]:
    """Throughput as requests carry more images, with as many images in flight."""
    warm_up(running, client, photos, plan)
    found = {}
    for count in (count for count in IMAGES_PER_REQUEST if count <= len(photos)):
        target = replace(running.target, form="multipart", images_per_request=count)
        each = replace(running, target=target)
        found[str(count)] = _point(each, client, photos, IMAGES_IN_FLIGHT // count, plan.growth_s)
    return found


def limit_round(settings: Settings, photos: Sequence[Path], plan: Plan) -> dict[str, Any]:
    """The bare loops of candor's own session: the most that this machine could give, in one process or one per core.

    `settings` are those that candor is compared with: a lone image is run as they say.
    """
    whole, each = (settings.model_copy(update={"workers": count}) for count in (1, usable_cores()))
    with worker() as bare:
        count, usage = bare.call(bare_pool, whole, photos, plan.concurrency, plan.closed_s)
        taken, alone = bare.call(bare_single, settings, photos, plan.lone_s)
        session = bare.call(describe_session, settings)
    of_each, usage_of_each = bare_processes(each, photos, plan.concurrency, plan.closed_s)
    return {
        "bare_pool": bare_round("bare_pool", count, usage).as_dict(),
        "bare_processes": bare_round("bare_processes", of_each, usage_of_each).as_dict(),
        "bare_single": bare_round("bare_single", len(taken), alone, taken).as_dict(),
        "session": session,
    }
