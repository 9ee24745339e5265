"""How much is measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Seconds of every stretch, and what the stretches are of.

    A stretch is whole passes over the photos, so at least one; `rounds` of the main scenarios alternate over all
    servers. A load of `concurrency` gives the capacity; the open loop offers `open_share` of it and the overload
    `overload_factor` times, where a client gives up after `patience_s`. `photos` and `large_photos` are how many.
    """

    rounds: int = 2
    warm_up_s: float = 1.0
    trial_s: float = 4.0
    closed_s: float = 5.0
    lone_s: float = 3.0
    open_s: float = 5.0
    overload_s: float = 60.0
    growth_s: float = 3.0
    photos: int = 100
    large_photos: int = 12
    concurrency: int = 16
    open_share: float = 0.7
    overload_factor: float = 2.0
    patience_s: float = 10.0


FULL = Plan()
SMOKE = Plan(
    rounds=1,
    warm_up_s=0.2,
    trial_s=0.5,
    closed_s=1.0,
    lone_s=0.3,
    open_s=1.0,
    overload_s=3.0,
    growth_s=0.3,
    photos=20,
    large_photos=4,
)

CONCURRENCIES = (1, 4, 16, 64)
IMAGES_PER_REQUEST = (1, 8, 32)
IMAGES_IN_FLIGHT = 64  # of the requests with several images, whatever their number
SIZES = ("64 px", "photo", "24 Mpx")
LARGE, LARGE_CONCURRENCY = "24 Mpx", 4  # 16 of them would wait for seconds, and meet the time-outs of some servers
