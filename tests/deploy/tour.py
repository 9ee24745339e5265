"""Start the stack of compose, use it, look at it, break it, restart it: `make tour`.

    python -m tests.deploy.tour [--compose podman-compose] [--services candor prometheus] [--timeout 300]

It runs under a name of its own, on the ports that compose publishes, and takes away what it made. Each step prints what
was found; the first that finds something else ends it with exit code 1.
"""

import argparse
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

from httpx2 import Client, HTTPError

from tests.deploy.dashboards import REPOSITORY, queries
from tests.service.images import flat, png
from tests.service.policies.factory import labelled

CANDOR: Final = "http://127.0.0.1:8000"
PROMETHEUS: Final = "http://127.0.0.1:9090"
GRAFANA: Final = "http://127.0.0.1:3000"
PNG: Final = {"content-type": "image/png"}
ITEMS: Final = 60
QUERIES: Final = 500  # a policy's window of drift
NOT_HERE: Final = {"GPU (profile gpu)"}  # rows of what this stack does not have
INPUTS: Final = ("top_score", "margin", "result_uncertainty")


@dataclass(frozen=True)
class Stack:
    """A project of compose, and how long to wait for what it does."""

    compose: list[str]
    services: list[str]
    timeout_s: float

    @property
    def server(self) -> str:
        """The service that is candor."""
        return next((name for name in self.services if name.startswith("candor")), "candor")

    def run(self, *arguments: str) -> None:
        """One command of compose, which says so where it fails."""
        subprocess.run(
            [*self.compose, "--project-name", "candor-tour", *arguments], cwd=REPOSITORY, check=True, timeout=900
        )

    def until(self, what: str, check: Callable[[], Any]) -> Any:
        """What `check` finds, asked until it finds something."""
        limit = time.monotonic() + self.timeout_s
        while time.monotonic() < limit:
            try:
                if found := check():
                    return found
            except (HTTPError, KeyError):
                pass
            time.sleep(1.0)
        raise SystemExit(f"FAILED: {what}: not within {self.timeout_s:g} s")


def main() -> None:
    """Make the tour."""
    stack = options()
    try:
        with Client(timeout=60.0) as client:
            start(stack, client)
            use(stack, client)
            look(stack, client)
            alarm(stack, client)
            restart(stack, client)
        say("done", "everything was as it should be")
    finally:
        stack.run("down", "--volumes")


def options() -> Stack:
    """The command line."""
    parser = argparse.ArgumentParser(description="Start the stack of compose and see that it works.")
    parser.add_argument("--compose", default="docker compose", help="the command, e.g. podman-compose")
    parser.add_argument("--services", nargs="*", default=[], help="start these alone (default: all of the profile)")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds to wait for each thing")
    given = parser.parse_args()
    return Stack(shlex.split(given.compose), given.services, given.timeout)


def say(step: str, found: str) -> None:
    """One line of the tour."""
    print(f"==> {step}: {found}", flush=True)


def start(stack: Stack, client: Client) -> None:
    """Everything comes up and says that it is ready."""
    stack.run("up", "--detach", *stack.services)
    stack.until("candor is ready", partial(ready, client))
    stack.until("Prometheus is ready", lambda: client.get(f"{PROMETHEUS}/-/ready").status_code == 200)
    if not stack.services or "grafana" in stack.services:
        found = stack.until(
            "Grafana has the dashboard", lambda: client.get(f"{GRAFANA}/api/dashboards/uid/candor").json()
        )
        say("start", f"Grafana shows {found['dashboard']['title']!r}")
    model = client.get(f"{CANDOR}/model").json()
    say("start", f"serving {model['bundle']} on {model['device']}")


def use(stack: Stack, client: Client) -> None:
    """Images of every fate, a gallery, retrieval, and a policy that is followed and judged."""
    for number in range(ITEMS):
        put = client.put(
            f"{CANDOR}/gallery/item-{number}",
            files={"image": png(number)},
            data={"payload": f'{{"label": "{number % 6}"}}'},
        )
        put.raise_for_status()
    for number in range(2 * ITEMS):
        client.post(
            f"{CANDOR}/embed", content=png(number), headers=PNG, params={"max_percentile": 0.5}
        ).raise_for_status()
    client.post(f"{CANDOR}/embed", content=flat(), headers=PNG, params={"max_percentile": 0.0}).raise_for_status()
    bad = client.post(f"{CANDOR}/embed", content=b"no image", headers=PNG).status_code
    found = client.post(f"{CANDOR}/retrieve", content=png(7), headers=PNG).json()
    make_policy(client)
    say(
        "use",
        f"{count(client)} items, {3 * ITEMS + 1} images, a bad one answered {bad}, item 7 found as {best(found)!r}",
    )
    if (count(client), bad, best(found)) != (ITEMS, 415, "item-7"):
        raise SystemExit("FAILED: not what was put in")


def make_policy(client: Client) -> None:
    """A policy certified with made-up evidence: it is kept, followed and watched like any other."""
    body = {
        "name": "tour",
        "targets": [{"alpha": 0.1, "delta": 0.1}],
        "development": evidence(400, 0),
        "certification": evidence(1500, 1),
    }
    client.post(f"{CANDOR}/policies", json=body).raise_for_status()


def evidence(number: int, seed: int) -> list[dict[str, Any]]:
    """Labelled queries of a simulated retrieval."""
    return [
        {**asdict(query), "evidence": {name: query.evidence[name] for name in INPUTS}}
        for query in labelled(number, seed, matches=1)
    ]


def look(stack: Stack, client: Client) -> None:
    """Every query of the dashboard returns data, rows apart that this stack has nothing for."""
    stack.until("Prometheus scrapes candor", lambda: series(client, 'up{job="candor"} == 1'))
    asked = [query for query in queries() if query.row not in NOT_HERE]
    for query in asked:
        stack.until(f"{query.panel} has data: {query.expr}", partial(ask, client, query.expr))
    rules = [rule for group in get(client, "rules")["groups"] for rule in group["rules"]]
    broken = [rule["name"] for rule in rules if rule["health"] == "err"]
    say(
        "look",
        f"{len(asked)} queries of the dashboard return data; {len(rules)} rules are evaluated, {len(broken)} fail",
    )
    if broken:
        raise SystemExit(f"FAILED: rules that fail: {broken}")


def ask(client: Client, expr: str) -> list[Any]:
    """What a query returns while there is traffic: an answer under the policy, and an image above a threshold."""
    feedback = {"request_id": follow(client, png(1)), "correct": True}
    client.post(f"{CANDOR}/feedback", json=feedback).raise_for_status()
    client.post(f"{CANDOR}/embed", content=png(2), headers=PNG, params={"max_percentile": 0.0}).raise_for_status()
    return series(client, expr)


def follow(client: Client, image: bytes) -> str:
    """Retrieve under the policy; the id that feedback calls the answer by."""
    query: dict[str, str | float] = {"policy": "tour", "alpha": 0.1}
    answer = client.post(f"{CANDOR}/retrieve", content=image, headers=PNG, params=query).raise_for_status()
    return answer.headers["x-request-id"]


def alarm(stack: Stack, client: Client) -> None:
    """Two alerts are forced: queries drift from those of a policy, and the server is stopped; it is started again."""
    for number in range(QUERIES):
        follow(client, png(number % ITEMS))
    stack.until("CandorPolicyAlarm fires", lambda: "CandorPolicyAlarm" in firing(client))
    say("alarm", f"CandorPolicyAlarm fires after {QUERIES} queries unlike those of the certification")
    stack.run("stop", stack.server)
    stack.until("CandorDown fires", lambda: "CandorDown" in firing(client))
    say("alarm", "CandorDown fires once the server is stopped")
    stack.run("start", stack.server)
    stack.until("CandorDown is over", lambda: "CandorDown" not in firing(client))
    stack.until("candor is ready again", partial(ready, client))
    say("alarm", "and is over once it is back")


def restart(stack: Stack, client: Client) -> None:
    """`down` and `up`: the gallery, the policy with its alarm and what Prometheus measured are all there."""
    before = (count(client), policy(client), len(history(client)))
    moment = time.time()
    stack.run("down")
    stack.run("up", "--detach", *stack.services)
    stack.until("candor is ready again", partial(ready, client))
    stack.until("Prometheus is ready again", lambda: client.get(f"{PROMETHEUS}/-/ready").status_code == 200)
    after = (count(client), policy(client), len(history(client, moment)))
    found = client.post(f"{CANDOR}/retrieve", content=png(7), headers=PNG).json()
    say("restart", f"items, policy, measurements: {before} before, {after} after; item 7 found as {best(found)!r}")
    if before[:2] != after[:2] or after[2] < before[2] or best(found) != "item-7":
        raise SystemExit("FAILED: a restart lost something")


def ready(client: Client) -> bool:
    """Whether candor takes requests."""
    return client.get(f"{CANDOR}/readyz").status_code == 200


def count(client: Client) -> int:
    """Items in the gallery."""
    return int(client.get(f"{CANDOR}/gallery").json()["count"])


def policy(client: Client) -> str:
    """What the policy is."""
    return str(client.get(f"{CANDOR}/policies/tour").json()["status"])


def best(answer: dict[str, Any]) -> str:
    """The id of the best match."""
    return str(answer["matches"][0]["id"])


def history(client: Client, moment: float | None = None) -> list[Any]:
    """What was measured of images in the quarter of an hour before a moment."""
    at = {} if moment is None else {"time": str(moment)}
    found = get(client, "query", query="candor_images_total[15m]", **at)["result"]
    return [point for one in found for point in one["values"]]


def firing(client: Client) -> set[str]:
    """The alerts that fire."""
    return {alert["labels"]["alertname"] for alert in get(client, "alerts")["alerts"] if alert["state"] == "firing"}


def series(client: Client, expr: str) -> list[Any]:
    """What a query returns now."""
    found: list[Any] = get(client, "query", query=expr)["result"]
    return [one for one in found if one["value"][1] != "NaN"]


def get(client: Client, what: str, **parameters: str) -> dict[str, Any]:
    """An answer of Prometheus's API."""
    answer = client.get(f"{PROMETHEUS}/api/v1/{what}", params=parameters)
    if answer.status_code == 400:
        raise SystemExit(f"FAILED: {parameters}: {answer.text}")
    data: dict[str, Any] = answer.json()["data"]
    return data


if __name__ == "__main__":
    main()
