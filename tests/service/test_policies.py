"""Policies through the whole app: made from labelled queries, followed, watched."""

import asyncio
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from httpx2 import Response

from service.evidence import DEPTH, Grouping, evidence_of
from service.gallery.base import Match
from service.policies.promise import Labelled
from service.schemas import FeedbackAnswer, PoliciesBody, PolicyBody, RetrieveAnswer
from tests.service.conftest import Running, Start
from tests.service.images import png
from tests.service.policies.factory import labelled
from tests.service.waiting import until

DIMENSION = 48
TARGET = {"alpha": 0.1, "delta": 0.1}


def match(item_id: str, score: float, label: str | None = None, group: str | None = None) -> Match:
    return Match(item_id, score, 0.3, {"about": {"label": label, "group": group}})


GROUPING = Grouping("about.label", "about.group")


def test_the_evidence_is_that_of_the_nearest_items() -> None:
    matches = [match("a", 0.9, "cat"), match("b", 0.8, "cat"), match("c", 0.5, "dog"), match("d", 0.4, "cat")]
    assert evidence_of(matches, GROUPING, uncertainty=0.7, novelty=None) == pytest.approx(
        {"top_score": 0.9, "margin": 0.4, "result_uncertainty": 0.3, "agreement": 0.75, "uncertainty": 0.7}
    )


def test_without_labels_groups_and_then_items_are_told_apart() -> None:
    grouped = [match("a", 0.9, group="x"), match("b", 0.8, group="x"), match("c", 0.5, group="y")]
    evidence = evidence_of(grouped, GROUPING, uncertainty=None, novelty=2.0)
    assert evidence == pytest.approx({"top_score": 0.9, "margin": 0.4, "result_uncertainty": 0.3, "novelty": 2.0})
    alone = evidence_of([match("a", 0.9), match("b", 0.8)], Grouping(), uncertainty=None, novelty=None)
    assert alone == pytest.approx({"top_score": 0.9, "margin": 0.1, "result_uncertainty": 0.3})


def test_where_all_are_of_one_label_the_last_stands_for_the_rival() -> None:
    matches = [match(str(i), 1 - i / 100, "cat") for i in range(DEPTH + 5)]
    evidence = evidence_of(matches, GROUPING, uncertainty=None, novelty=None)
    assert evidence is not None
    assert evidence["margin"] == pytest.approx((DEPTH - 1) / 100)
    assert evidence_of([], GROUPING, uncertainty=1.0, novelty=1.0) is None
    assert evidence_of(matches[:1], GROUPING, uncertainty=None, novelty=None) == pytest.approx(
        {"top_score": 1.0, "margin": 0.0, "result_uncertainty": 0.3, "agreement": 1.0}
    )


def vector(*weights: float) -> list[float]:
    values = np.zeros(DIMENSION)
    values[: len(weights)] = weights
    return values.tolist()


async def fill(running: Running, count: int = 6, start: int = 0) -> None:
    items = [
        {
            "id": f"i{number}",
            "vector": np.eye(DIMENSION)[number % DIMENSION].tolist(),
            "uncertainty": 0.5 + number / 1000,
            "payload": {"label": "even" if number % 2 == 0 else "odd"},
        }
        for number in range(start, start + count)
    ]
    response = await running.client.post("/gallery", json={"items": items})
    assert response.json()["failed"] == 0, response.text


def queries(
    count: int, seed: int, inputs: tuple[str, ...] = ("top_score", "margin", "result_uncertainty"), matches: int = 1
) -> list[Any]:
    def written(query: Labelled) -> dict[str, Any]:
        return {**asdict(query), "evidence": {name: query.evidence[name] for name in inputs}}

    return [written(query) for query in labelled(count, seed, matches=matches)]


async def make(running: Running, name: str = "shop", **changes: Any) -> Response:
    content = {
        "name": name,
        "targets": [TARGET],
        "development": queries(400, 0),
        "certification": queries(1500, 1),
        **changes,
    }
    return await running.client.post("/policies", json=content)


async def ask(running: Running, query: list[float], **options: Any) -> Response:
    return await running.client.post("/retrieve", json={"vector": query, "policy": "shop", **options})


async def test_a_policy_accepts_sure_matches_and_abstains_from_others(start: Start) -> None:
    async with start(label_field="label") as running:
        await fill(running)
        made = await make(running)
        sure, unsure = await ask(running, vector(1.0)), await ask(running, vector(0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 3.0))

    assert made.status_code == 201, made.text
    body = PolicyBody.model_validate(made.json())
    assert (body.status, body.gallery.items, body.label_field) == ("valid", 6, "label")
    assert body.inputs == ["result_uncertainty", "top_score", "margin"]
    (target,) = body.targets
    assert target.feasible
    assert target.certificate is not None
    assert (target.certificate.labels, target.audits.count) == (1500, 0)

    accepted, abstained = (RetrieveAnswer.model_validate(response.json()) for response in (sure, unsure))
    assert (accepted.decision, accepted.reasons) == ("match", [])
    assert accepted.p_correct is not None
    assert accepted.p_correct > 0.8
    assert accepted.guarantee.model_dump() == {
        "status": "valid",
        "policy": "shop",
        "kind": "best_match",
        "k": 1,
        **TARGET,
        "reasons": [],
    }
    assert accepted.threshold.query.source == "policy"
    assert abstained.decision == "abstain"
    assert abstained.reasons[0] in ("no_close_match", "ambiguous_match")
    assert abstained.p_correct is not None
    assert abstained.p_correct < accepted.p_correct
    assert abstained.matches  # to look at all the same


async def test_evidence_is_told_on_request_at_a_fixed_depth(start: Start) -> None:
    async with start(label_field="label") as running:
        await fill(running)
        plain = await running.client.post("/retrieve", json={"vector": vector(1.0), "limit": 1})
        told = await running.client.post("/retrieve", json={"vector": vector(1.0, 0.5), "limit": 1, "evidence": True})
        image = await running.client.post(
            "/retrieve", content=png(1), headers={"content-type": "image/png"}, params={"evidence": "true"}
        )

    assert plain.json()["evidence"] is None
    body = told.json()
    assert len(body["matches"]) == 1
    scores = np.array([1.0, 0.5]) / np.linalg.norm([1.0, 0.5])
    assert body["evidence"] == pytest.approx(
        {"top_score": scores[0], "margin": scores[0] - scores[1], "result_uncertainty": 0.5, "agreement": 0.5}, abs=1e-6
    )
    assert {"uncertainty", "novelty"} <= set(image.json()["evidence"])


async def test_a_promise_of_precision_is_about_that_many_matches(start: Start) -> None:
    lists: dict[str, Any] = {"development": queries(400, 0, matches=3), "certification": queries(1500, 1, matches=3)}
    async with start() as running:
        await fill(running)
        made = await make(running, targets=[{"alpha": 0.2, "delta": 0.1, "k": 3}, TARGET], **lists)
        answer = await ask(running, vector(1.0), k=3)
        limited = await ask(running, vector(1.0), k=3, limit=2)
        request_id = answer.headers["x-request-id"]
        vague = await running.client.post("/feedback", json={"request_id": request_id, "correct": True})
        judged = await running.client.post(
            "/feedback", json={"request_id": request_id, "relevant": [True, False, True]}
        )

    assert made.status_code == 201, made.text
    assert made.json()["targets"][0]["k"] == 3
    body = RetrieveAnswer.model_validate(answer.json())
    assert (body.decision, len(body.matches)) == ("match", 3)
    assert (body.guarantee.kind, body.guarantee.k, body.guarantee.alpha) == ("precision", 3, 0.2)
    assert (limited.status_code, vague.status_code) == (400, 400)
    assert "leave out limit" in limited.json()["detail"]
    assert "about 3 matches" in vague.json()["detail"]
    assert judged.json()["loss"] == pytest.approx(1 / 3)


async def test_adaptive_answers_are_as_long_as_the_query_is_uncertain(start: Start) -> None:
    inputs = ("top_score", "uncertainty")
    lists: dict[str, Any] = {"development": queries(400, 0, inputs, 40), "certification": queries(2000, 1, inputs, 40)}
    async with start() as running:
        await fill(running, 40)
        made = await make(running, targets=[{"alpha": 0.1, "delta": 0.1, "k": "adaptive"}], **lists)
        sets = PolicyBody.model_validate(made.json()).targets[0].sets
        answers = [await running.client.post("/retrieve", json={"id": f"i{n}", "policy": "shop"}) for n in (0, 39)]
        by_vector = await ask(running, vector(1.0))
        request_id = answers[0].headers["x-request-id"]
        judged = await running.client.post("/feedback", json={"request_id": request_id, "correct": False})

    assert sets is not None
    assert sets[0].above is None
    for number, response in zip((0, 39), answers, strict=True):
        uncertainty = 0.5 + number / 1000
        wanted = [each.k for each in sets if each.above is None or uncertainty > each.above][-1]
        body = RetrieveAnswer.model_validate(response.json())
        assert wanted is not None
        assert (body.guarantee.kind, body.guarantee.k, body.guarantee.delta) == ("set", wanted, None)
        assert (body.decision, len(body.matches)) == ("match", wanted)
    assert (by_vector.status_code, judged.json()["loss"]) == (400, 1.0)
    assert "how many matches it needs" in by_vector.json()["detail"]


async def test_an_empty_gallery_abstains(start: Start) -> None:
    async with start() as running:
        await make(running)
        answer = (await ask(running, vector(1.0))).json()
    assert (answer["decision"], answer["reasons"], answer["p_correct"]) == ("abstain", ["no_close_match"], None)


async def test_only_certified_pairs_can_be_asked_for(start: Start) -> None:
    targets = [TARGET, {"alpha": 0.2, "delta": 0.1}, {"alpha": 0.0001, "delta": 0.01}]
    async with start() as running:
        await fill(running)
        made = (await make(running, targets=targets)).json()
        which = await ask(running, vector(1.0))
        named = await ask(running, vector(1.0), alpha=0.2)
        other = await ask(running, vector(1.0), alpha=0.15)
        infeasible = await ask(running, vector(1.0), alpha=0.0001)
        unknown = await running.client.post("/retrieve", json={"vector": vector(1.0), "policy": "nobody"})

    assert [target["feasible"] for target in made["targets"]] == [True, True, False]
    needed = made["targets"][2]["certificate"]["labels_needed"]
    assert needed is None or needed > 1500
    assert which.status_code == other.status_code == infeasible.status_code == 400
    assert "alpha 0.1 with delta 0.1" in which.json()["detail"]
    assert "could not be certified" in infeasible.json()["detail"]
    assert named.json()["guarantee"]["alpha"] == 0.2
    assert (unknown.status_code, unknown.json()["type"]) == (404, "unknown_policy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "shop", "score_threshold": 0.5}, "leave out score_threshold"),
        ({"policy": "shop", "filter": {"a": 1}}, "leave out filter"),
        ({"policy": "shop", "max_result_percentile": 0.5}, "leave out max_result_percentile"),
        ({"alpha": 0.1}, "name it"),
        ({"evidence": True, "filter": {"a": 1}}, "leave out filter"),
    ],
)
async def test_options_that_the_certificate_does_not_cover_are_refused(
    start: Start, options: dict[str, Any], message: str
) -> None:
    async with start() as running:
        await make(running)
        response = await running.client.post("/retrieve", json={"vector": vector(1.0), **options})
    assert (response.status_code, response.json()["type"]) == (400, "invalid_option")
    assert message in response.json()["detail"]


async def test_a_query_that_lacks_an_input_is_told_so(start: Start) -> None:
    async with start() as running:
        await fill(running)
        inputs = ("top_score", "uncertainty")
        await make(running, development=queries(400, 0, inputs), certification=queries(1500, 1, inputs))
        by_vector = await ask(running, vector(1.0))
        by_image = await running.client.post(
            "/retrieve", content=png(1), headers={"content-type": "image/png"}, params={"policy": "shop"}
        )
    assert by_vector.status_code == 400
    assert "has no uncertainty" in by_vector.json()["detail"]
    assert by_image.status_code == 200
    assert by_image.json()["guarantee"]["status"] == "valid"


async def test_a_gallery_that_grows_makes_the_policy_stale_and_one_made_anew_is_valid(start: Start) -> None:
    async with start(policy_max_change=0.2) as running:
        await fill(running, 20)
        await make(running)
        await fill(running, 3, start=20)
        await running.services.policies.look_at_gallery()
        little = (await ask(running, vector(1.0))).json()["guarantee"]["status"]
        await fill(running, 20, start=23)
        await running.services.policies.look_at_gallery()
        much = (await ask(running, vector(1.0))).json()["guarantee"]
        await make(running)
        anew = (await ask(running, vector(1.0))).json()["guarantee"]["status"]

    assert (little, much["status"], anew) == ("valid", "stale", "valid")
    assert "20 items then, 43 now" in much["reasons"][0]


async def test_wrong_answers_raise_the_alarm(start: Start) -> None:
    async with start() as running:
        await fill(running)
        await make(running)
        for number in range(60):
            headers = {"x-request-id": f"q{number}"}
            answer = await running.client.post(
                "/retrieve", json={"vector": vector(1.0), "policy": "shop"}, headers=headers
            )
            assert answer.json()["decision"] == "match"
        verdicts = [
            (
                await running.client.post("/feedback", json={"request_id": f"q{number}", "correct": number % 2 == 0})
            ).json()
            for number in range(60)
        ]
        status = (await running.client.get("/policies/shop")).json()
        after = (await ask(running, vector(1.0))).json()["guarantee"]
        ready = await running.client.get("/readyz")
        metrics = (await running.client.get("/metrics")).text
        warnings = [line for line in running.log.getvalue().splitlines() if "promise may not hold" in line]

    assert not FeedbackAnswer.model_validate(verdicts[0]).alarm
    assert verdicts[-1] == {"policy": "shop", "counted": True, "audits": 60, "loss": 30.0, "alarm": True}
    assert (status["status"], after["status"]) == ("alarm", "alarm")
    assert "30 of 60 audited" in after["reasons"][0]
    assert len(warnings) == 1  # however often it is looked at
    assert '"status":"alarm"' in warnings[0].replace(" ", "")
    assert ready.status_code == 200
    assert 'candor_policy_status{bundle="tiny",policy="shop",status="alarm"} 1.0' in metrics
    assert 'candor_feedback_total{bundle="tiny",correct="false",policy="shop"} 30.0' in metrics


async def test_feedback_on_anything_else_is_refused(start: Start) -> None:
    async with start() as running:
        await fill(running)
        await make(running)
        await ask(running, vector(1.0))
        unknown = await running.client.post("/feedback", json={"request_id": "never", "correct": True})
        request_id = (await ask(running, vector(1.0))).headers["x-request-id"]
        first = await running.client.post("/feedback", json={"request_id": request_id, "correct": True})
        again = await running.client.post("/feedback", json={"request_id": request_id, "correct": True})
        other = await running.client.post("/feedback", json={"request_id": request_id, "correct": False})
        malformed = await running.client.post("/feedback", json={"request_id": request_id, "correct": "perhaps"})
    assert (unknown.status_code, unknown.json()["type"]) == (404, "unknown_request")
    assert first.json()["audits"] == again.json()["audits"] == 1
    assert (other.status_code, other.json()["type"]) == (409, "already_judged")
    assert malformed.status_code == 400


async def test_policies_and_their_state_survive_a_restart(start: Start, tmp_path: Any) -> None:
    kept = {"policies": tmp_path / "kept.sqlite"}
    async with start(**kept) as running:
        await fill(running)
        await make(running)
        request_id = (await ask(running, vector(1.0))).headers["x-request-id"]
    async with start(**kept) as running:
        await fill(running)
        await running.client.post("/feedback", json={"request_id": request_id, "correct": True})
        listed = PoliciesBody.model_validate((await running.client.get("/policies")).json())
        assert (await ask(running, vector(1.0))).json()["guarantee"]["status"] in ("valid", "stale")
        assert (await running.client.delete("/policies/shop")).json() == {"deleted": 1}
        gone = await running.client.get("/policies/shop")
        assert (await running.client.get("/policies")).json() == {"policies": []}
        metrics = (await running.client.get("/metrics")).text
    assert listed.policies[0].targets[0].audits.count == 1
    assert 'candor_policy_status{bundle="tiny",policy="shop",status="valid"} 0.0' in metrics
    assert 'candor_policy_status{bundle="tiny",policy="shop",status="stale"} 0.0' in metrics
    assert gone.status_code == 404


async def test_what_another_process_made_is_followed_here(start: Start, tmp_path: Any) -> None:
    kept = {"policies": tmp_path / "kept.sqlite"}
    async with start(**kept) as one, start(**kept) as other:
        await fill(one)
        await fill(other)
        await make(one)
        await until(lambda: bool(other.services.policies.all()))
        assert (await ask(other, vector(1.0))).status_code == 200


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"name": "a/b"}, 400, "letters, digits"),
        ({"targets": []}, 400, "targets"),
        ({"targets": [{"alpha": 0.0, "delta": 0.1}]}, 400, "alpha"),
        ({"targets": [{**TARGET, "k": 0}]}, 400, "k"),
        ({"targets": [{**TARGET, "k": 3}]}, 422, "about 3 matches"),
        ({"targets": [{**TARGET, "k": "adaptive"}]}, 422, "uncertainty of every"),
        ({"development": queries(20, 0)}, 422, "20 development queries"),
        ({"development": [{"evidence": {"colour": 1.0}, "correct": True}]}, 400, "no input colour"),
        ({"development": [{"evidence": {"margin": 1.0}, "correct": True, "relevant": [True]}]}, 400, "exactly one"),
        ({"development": [{"evidence": {"margin": None}, "correct": True}]}, 400, "margin"),
        ({"colour": 1}, 400, "no such option"),
        (
            {
                "development": [{**query, "group": "twin"} for query in queries(60, 0)],
                "certification": [{**query, "group": "twin"} for query in queries(60, 1)],
            },
            400,
            "in both splits",
        ),
    ],
)
async def test_bad_policies_are_refused_with_the_reason(
    start: Start, changes: dict[str, Any], status: int, message: str
) -> None:
    async with start() as running:
        response = await make(running, **changes)
        assert running.services.policies.all() == []
    assert response.status_code == status, response.text
    assert message in response.json()["detail"]


async def test_many_answers_at_once_are_all_kept(start: Start) -> None:
    async with start() as running:
        await fill(running)
        await make(running)
        answers = await asyncio.gather(*(ask(running, vector(1.0)) for _ in range(50)))
        ids = [answer.headers["x-request-id"] for answer in answers]
        judged = await asyncio.gather(
            *(running.client.post("/feedback", json={"request_id": each, "correct": True}) for each in ids)
        )
    assert {response.status_code for response in judged} == {200}
    assert max(response.json()["audits"] for response in judged) == 50
