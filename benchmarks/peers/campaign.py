"""The order of a run: trials of setups, rounds that alternate over servers and the limit, overload, growth."""

import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_bundle
from benchmarks.peers.catalogue import CANDOR_NAME, DEFAULT, Contender, Setup
from benchmarks.peers.environments import NotInstalled, programs_of
from benchmarks.peers.launch import Running, check_work, reference_embeddings, started
from benchmarks.peers.plan import Plan
from benchmarks.peers.scenarios import closed, growth, images_per_request, limit_round, main_round, overload, warm_up
from benchmarks.peers.store import Store
from benchmarks.worker import Worker, WorkerDied, worker
from models.bundle import Bundle
from service.settings import read_settings

TRIALS = {DEFAULT: "mobilenetv3_small_100", "vit_small_patch16_224": "resnet50"}  # whose choice of setup they share
LIMIT = "limit"


@dataclass(frozen=True)
class Campaign:
    """Everything that a run needs: who, which models, how much, with which photos, and where results go."""

    contenders: Sequence[Contender]
    bundles: dict[str, Bundle]
    plan: Plan
    photos: dict[str, list[Path]]
    overload_models: Sequence[str]
    store: Store
    environments: Path
    started_at: float = field(default_factory=time.monotonic)


def run_all(campaign: Campaign) -> None:
    """Measure what the store does not hold yet; a unit that fails is kept with its error."""
    units = list(_units(campaign))
    with worker() as client:
        for number, (key, measure) in enumerate(units, 1):
            if campaign.store.get(key) is not None:
                continue
            minutes = (time.monotonic() - campaign.started_at) / 60
            print(f"[{number}/{len(units)}, {minutes:.1f} min] {key}", file=sys.stderr, flush=True)
            result = _attempt(measure, client)
            campaign.store.put(key, result)
            print(f"    {_brief(result)}", file=sys.stderr, flush=True)


Measure = Callable[[Worker], dict[str, Any]]


def _units(campaign: Campaign) -> Iterator[tuple[str, Measure]]:
    several = [each for each in campaign.contenders if len(each.setups) > 1]
    for model in dict.fromkeys(TRIALS.get(model, model) for model in campaign.bundles):
        if model in campaign.bundles:
            for contender in several:
                for number, setup in enumerate(contender.setups):
                    key = f"trial/{model}/{contender.name}/{number}"
                    yield key, _on(campaign, contender, model, _trial(campaign), setup)
    for model in campaign.bundles:
        for number in range(campaign.plan.rounds):
            order: list[Contender | str] = [*campaign.contenders, LIMIT]  # candor first: its start tunes, if any does
            for each in order if number % 2 == 0 else reversed(order):
                key = f"round-{number}/{model}/{each if isinstance(each, str) else each.name}"
                if isinstance(each, Contender):
                    yield key, _on(campaign, each, model, _main(campaign, number))
                else:
                    yield key, _limit(campaign, model)
    for model in campaign.overload_models:
        for contender in campaign.contenders:
            yield f"overload/{model}/{contender.name}", _on(campaign, contender, model, _overload(campaign, model))
    for contender in campaign.contenders if DEFAULT in campaign.bundles else ():
        yield f"growth/{contender.name}", _on(campaign, contender, DEFAULT, _growth(campaign))
        if contender.name == CANDOR_NAME:
            yield "images-per-request/candor", _on(campaign, contender, DEFAULT, _per_request(campaign))


Scenario = Callable[[Running, Worker, Contender], dict[str, Any]]


def _on(
    campaign: Campaign, contender: Contender, model: str, scenario: Scenario, setup: Setup | None = None
) -> Measure:
    """The scenario on a server of its own, once that does candor's work."""

    def measure(client: Worker) -> dict[str, Any]:
        chosen = setup or chosen_setup(campaign.store, contender, model)
        with _server(campaign, contender, model, chosen) as (running, cosine):
            facts = {"setup": chosen.name, "cold_start_s": running.cold_start_s, "least_cosine": cosine}
            return {**facts, **scenario(running, client, contender)}

    return measure


@contextmanager
def _server(campaign: Campaign, contender: Contender, model: str, setup: Setup) -> Iterator[tuple[Running, float]]:
    photos, bundle = campaign.photos["photo"], campaign.bundles[model]
    own = contender.name != CANDOR_NAME
    programs = programs_of(contender.name, campaign.environments) if own else Path(sys.executable).parent
    with (
        tempfile.TemporaryDirectory(prefix="candor-bench-", ignore_cleanup_errors=True) as folder,
        started(contender, setup, bundle, programs, Path(folder), photos[0]) as running,
    ):
        yield running, check_work(running, photos, reference_embeddings(bundle, photos))


def chosen_setup(store: Store, contender: Contender, model: str) -> Setup:
    """The setup that carried most in the trials of the model, or of the one whose choice it shares."""
    model = TRIALS.get(model, model)
    tried = [store.get(f"trial/{model}/{contender.name}/{number}") or {} for number in range(len(contender.setups))]
    speeds = [each.get("images_per_second", 0.0) for each in tried]
    return contender.setups[speeds.index(max(speeds))]


def capacity_of(store: Store, name: str, model: str, rounds: int) -> float:
    """Images per second of a server at the plan's concurrency, the median over the rounds.

    Raises:
        LookupError: where no round was measured.
    """
    found = [store.get(f"round-{number}/{model}/{name}") or {} for number in range(rounds)]
    speeds: list[float] = [each["many"]["images_per_second"] for each in found if "many" in each]
    if not speeds:
        raise LookupError("no capacity was measured to offer a multiple of")
    return statistics.median(speeds)


def _trial(campaign: Campaign) -> Scenario:
    def scenario(running: Running, client: Worker, contender: Contender) -> dict[str, Any]:
        photos, plan = campaign.photos["photo"], campaign.plan
        warm_up(running, client, photos, plan)
        return closed(running, client, photos, plan.concurrency, plan.trial_s)

    return scenario


def _main(campaign: Campaign, number: int) -> Scenario:
    return lambda running, client, contender: main_round(
        running, client, campaign.photos["photo"], campaign.plan, number
    )


def _overload(campaign: Campaign, model: str) -> Scenario:
    def scenario(running: Running, client: Worker, contender: Contender) -> dict[str, Any]:
        capacity = capacity_of(campaign.store, contender.name, model, campaign.plan.rounds)
        return overload(running, client, campaign.photos["photo"], capacity, campaign.plan)

    return scenario


def _growth(campaign: Campaign) -> Scenario:
    return lambda running, client, contender: growth(running, client, campaign.photos, campaign.plan)


def _per_request(campaign: Campaign) -> Scenario:
    return lambda running, client, contender: images_per_request(
        running, client, campaign.photos["photo"], campaign.plan
    )


def _limit(campaign: Campaign, model: str) -> Measure:
    bundle = campaign.bundles[model]
    candor = next((each for each in campaign.contenders if each.name == CANDOR_NAME), None)

    def measure(client: Worker) -> dict[str, Any]:
        workers = chosen_setup(campaign.store, candor, model).workers if candor else 1
        settings = read_settings({"bundle": bundle.path, "workers": workers})
        limit = limit_round(settings, campaign.photos["photo"], campaign.plan)
        return {**limit, "bundle": describe_bundle(bundle)}

    return measure


def _attempt(measure: Measure, client: Worker) -> dict[str, Any]:
    """What was measured, or the error: one server's failure must not end the others' run.

    Raises:
        WorkerDied: without the client nothing can be measured.
    """
    try:
        return measure(client)
    except WorkerDied as error:
        if error.pid == client.pid:
            raise
        return {"error": str(error)}
    except (NotInstalled, LookupError) as error:
        return {"error": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def _brief(result: dict[str, Any]) -> str:
    """One line of progress."""
    if "error" in result:
        return f"failed: {result['error'][:300]}"
    measured = result.get("many") or result.get("bare_pool") or result
    if "goodput_over_capacity" in measured:
        return f"{measured['results']}, goodput {measured['goodput_over_capacity']:.2f} of capacity"
    if "images_per_second" in measured:
        return f"{measured['images_per_second']:.1f} img/s, {measured['cpu_ms_per_image']:.2f} CPU ms/image"
    return "done"
