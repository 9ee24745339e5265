"""What a policy says when things change: nothing while all is well, stale or alarmed when the promise cannot hold."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from benchmarks.policies.asking import Asked, Candor, Decided, Pixels
from benchmarks.policies.sets import Parted, Picture, Setting, distractors, encoded
from benchmarks.policies.splits import TARGETS, Split, policy_of
from service.policies.promise import Target

NAME: Final = "shop"
GROWTH: Final = 3  # distractors for each item of the gallery
BLUR: Final = 1 / 40  # of an image's width
PATIENCE_S: Final = 60.0
WRITTEN_AFTER_S: Final = 1.5  # a server writes what it has answered once a second


@dataclass(frozen=True)
class Scene:
    """A server, what it holds, and the queries of one split with what they gave when all was well."""

    server: Candor
    setting: Setting
    parted: Parted
    asked: Sequence[Asked]
    split: Split
    target: Target

    @property
    def test(self) -> list[Picture]:
        """The test queries."""
        return [self.parted.queries[place] for place in self.split.test]

    def certify(self) -> None:
        """Make the policy, anew if there is one."""
        self.server.certify(
            {
                "name": NAME,
                "targets": [asdict(target) for target in TARGETS],
                "development": [_labelled(self.asked[place]) for place in self.split.development],
                "certification": [_labelled(self.asked[place]) for place in self.split.certification],
            }
        )

    def follow(self, queries: Sequence[Picture], pixels: Pixels, run: str) -> list[Decided]:
        """Ask under the promise that is followed."""
        target = self.target
        return self.server.follow(queries, pixels, run, policy=NAME, alpha=target.alpha, delta=target.delta, k=1)


def watch(scene: Scene) -> dict[str, Any]:
    """Ask the test queries as they are and changed, and all of them of a gallery that has grown; judge the answers."""
    plain = partial(encoded, scene.parted.dataset)
    blurred = partial(plain, blur=BLUR * scene.parted.dataset.image(0).width)
    strangers, of_no_class = distractors(scene.setting, GROWTH * len(scene.parted.gallery))
    seen = {
        "as certified": _phase(scene, scene.test, plain, "plain"),
        "blurred queries": _phase(scene, scene.test, blurred, "blurred"),
        "queries without a match": _phase(
            scene, of_no_class[: len(scene.test)], partial(encoded, strangers), "strangers"
        ),
    }
    scene.certify()
    items = scene.server.policy(NAME)["gallery"]["items"]
    scene.server.fill(of_no_class, partial(encoded, strangers), "stranger-")
    seconds = _until_stale(scene.server)
    grown = _phase(scene, scene.parted.queries, plain, "grown", anew=False)
    return seen | {"a gallery four times the size": grown | {"items_before": items, "stale_after_s": seconds}}


def agrees(scene: Scene) -> bool:
    """Whether the server accepts exactly the test queries that the same policy made here accepts."""
    scene.certify()
    policy = policy_of(scene.asked, scene.split.development, scene.split.certification)
    certificate = next(each.certificate for each in policy.certified if each.target == scene.target)
    assert certificate is not None
    here = [
        certificate.threshold is not None and policy.judge(scene.asked[place].evidence).score <= certificate.threshold
        for place in scene.split.test
    ]
    there = scene.follow(scene.test, partial(encoded, scene.parted.dataset), "agreement")
    return here == [answer.accepted for answer in there]


def _phase(scene: Scene, queries: Sequence[Picture], pixels: Pixels, run: str, *, anew: bool = True) -> dict[str, Any]:
    if anew:
        scene.certify()
    answers = scene.follow(queries, pixels, run)
    accepted = [answer for answer in answers if answer.accepted]
    audits = _judge_until_alarm(scene.server, accepted)
    time.sleep(WRITTEN_AFTER_S)
    said = scene.server.policy(NAME)
    return {
        "queries": len(answers),
        "accepted": len(accepted),
        "risk": float(np.mean([not answer.correct for answer in accepted])) if accepted else None,
        "statuses": sorted({answer.status for answer in answers}),
        "audits_until_alarm": audits,
        "drifted": sorted(name for name, each in said["drift"].items() if each["alarmed_at"] is not None),
        "looks": max(each["looks"] for each in said["drift"].values()) if said["drift"] else 0,
        "status": said["status"],
        "reasons": said["status_reasons"],
    }


def _judge_until_alarm(server: Candor, accepted: Sequence[Decided]) -> int | None:
    """How many accepted answers had to be judged until the alarm; None where all were, without one."""
    return next((count for count, answer in enumerate(accepted, start=1) if server.judge(answer)["alarm"]), None)


def _until_stale(server: Candor) -> float:
    started = time.monotonic()
    while server.policy(NAME)["status"] != "stale":
        if time.monotonic() - started > PATIENCE_S:
            raise RuntimeError("the policy has not gone stale")
        time.sleep(0.2)
    return round(time.monotonic() - started, 1)


def _labelled(asked: Asked) -> dict[str, Any]:
    return {"evidence": asked.evidence, "relevant": list(asked.relevant)}
