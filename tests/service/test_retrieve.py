"""`POST /retrieve`, through the whole app."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from httpx2 import Response

from service.gallery.base import Item
from service.schemas import RetrieveAnswer
from tests.service.bundle_factory import DIMENSION
from tests.service.conftest import Running, Start
from tests.service.images import flat, png

PNG = {"content-type": "image/png"}


def axis(index: int, other: float = 0.0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A unit vector along one axis, leaning to the next by `other`."""
    vector = np.zeros(DIMENSION)
    vector[index], vector[index + 1] = 1.0, other
    return (vector / np.linalg.norm(vector)).astype(np.float32)


async def fill(running: Running) -> None:
    """Five items ever further from axis 0, ever more uncertain, of two colours in turn."""
    items = [
        Item(str(i), axis(0, i / 2), 2.0 * i, {"colour": ("red", "blue")[i % 2], "rank": {"n": i}}) for i in range(5)
    ]
    await running.gallery.upsert(items)


async def ask(running: Running, **body: Any) -> dict[str, Any]:
    response = await running.client.post("/retrieve", json=body)
    assert response.status_code == 200, response.text
    return RetrieveAnswer.model_validate(response.json()).model_dump()


def ids(answer: dict[str, Any]) -> list[str]:
    return [match["id"] for match in answer["matches"]]


def kind(response: Response) -> tuple[int, str]:
    return response.status_code, response.json()["type"]


async def test_a_vector_finds_the_nearest_items_best_first(running: Running) -> None:
    await fill(running)
    answer = await ask(running, vector=axis(0).tolist(), limit=3)

    assert answer["decision"] == "match"
    assert answer["reasons"] == []
    assert ids(answer) == ["0", "1", "2"]
    assert [match["score"] for match in answer["matches"]] == pytest.approx([1, 1 / 1.25**0.5, 1 / 2**0.5], abs=1e-6)
    assert [match["percentile"] for match in answer["matches"]] == pytest.approx([0, 0.1, 0.2])
    assert answer["matches"][1]["payload"] == {"colour": "blue", "rank": {"n": 1}}
    assert answer["query"] == {"uncertainty": None, "percentile": None}
    assert answer["p_correct"] is None
    assert answer["guarantee"]["status"] == "none"


async def test_a_vector_need_not_be_of_unit_length_and_may_be_base64(running: Running) -> None:
    await fill(running)
    as_list = await ask(running, vector=(axis(0, 0.7) * 40).tolist())
    as_text = await ask(running, vector=base64.b64encode(axis(0, 0.7).astype("<f4").tobytes()).decode())

    assert ids(as_list) == ids(as_text)
    assert as_list["matches"][0]["score"] == pytest.approx(as_text["matches"][0]["score"], abs=1e-6)


@pytest.mark.parametrize("vector", [[1.0], [0.0] * DIMENSION, [], "AAAA", "%"])
async def test_a_vector_that_is_none_is_refused(running: Running, vector: object) -> None:
    assert kind(await running.client.post("/retrieve", json={"vector": vector})) == (400, "invalid_vector")


async def test_an_image_finds_itself_in_every_form(running: Running) -> None:
    for seed in range(4):
        await running.client.put(f"/gallery/{seed}", content=png(seed), headers=PNG)

    answers = [
        await running.client.post("/retrieve", content=png(2), headers=PNG, params={"limit": 2}),
        await running.client.post("/retrieve", files={"image": png(2)}, data={"limit": "2"}),
        await running.client.post("/retrieve", json={"image": base64.b64encode(png(2)).decode(), "limit": 2}),
    ]

    for response in answers:
        answer = RetrieveAnswer.model_validate(response.json()).model_dump()
        assert len(answer["matches"]) == 2
        assert answer["matches"][0]["id"] == "2"
        assert answer["matches"][0]["score"] == pytest.approx(1, abs=1e-5)
        assert answer["query"]["uncertainty"] == pytest.approx(answer["matches"][0]["uncertainty"], rel=1e-5)


async def test_an_item_is_not_its_own_match_nor_counted_as_removed(running: Running) -> None:
    await fill(running)

    near = await ask(running, id="4", limit=2)
    uncertain = await ask(running, id="4", limit=2, max_result_uncertainty=5)
    filtered = await ask(running, id="4", limit=2, filter={"colour": "blue"})
    both = await ask(running, id="4", limit=4, filter={"colour": "red"}, max_result_uncertainty=5)

    assert ids(near) == ["3", "2"]
    assert near["query"] == {"uncertainty": 8.0, "percentile": 0.4}
    assert ids(uncertain) == ["2", "1"]
    assert uncertain["removed"] == {"by_filter": 0, "by_uncertainty": 1, "by_score": 0}
    assert ids(filtered) == ["3", "1"]
    assert filtered["removed"] == {"by_filter": 1, "by_uncertainty": 0, "by_score": 0}
    assert ids(both) == ["2", "0"]
    assert both["removed"] == {"by_filter": 2, "by_uncertainty": 0, "by_score": 0}


async def test_a_filter_leaves_out_what_does_not_pass_and_says_how_many(running: Running) -> None:
    await fill(running)
    condition = {"colour": {"any": ["blue"]}, "rank.n": {"gte": 1, "lt": 9}}

    in_json = await ask(running, vector=axis(0).tolist(), limit=3, filter=condition)
    in_query = await running.client.post(
        "/retrieve", json={"vector": axis(0).tolist()}, params={"filter": json.dumps(condition), "limit": 3}
    )

    assert ids(in_json) == ["1", "3"]
    assert in_json["removed"] == {"by_filter": 2, "by_uncertainty": 0, "by_score": 0}
    assert ids(in_query.json()) == ["1", "3"]


@pytest.mark.parametrize("bound", [{"max_result_uncertainty": 2.0}, {"max_result_percentile": 0.1}])
async def test_uncertain_items_are_left_out_by_raw_value_or_percentile(running: Running, bound: dict[str, Any]) -> None:
    await fill(running)

    answer = await ask(running, vector=axis(0).tolist(), limit=4, **bound)

    assert ids(answer) == ["0", "1"]
    assert answer["removed"] == {"by_filter": 0, "by_uncertainty": 2, "by_score": 0}
    assert answer["threshold"]["result"]["source"] == "request"


async def test_nothing_close_enough_is_an_abstention(running: Running) -> None:
    await fill(running)

    far = await ask(running, vector=axis(20).tolist(), score_threshold=0.5)
    near = await ask(running, vector=axis(0).tolist(), score_threshold=0.8)

    assert (far["decision"], far["reasons"], far["matches"]) == ("abstain", ["no_close_match"], [])
    assert far["removed"] == {"by_filter": 0, "by_uncertainty": 0, "by_score": 5}
    assert ids(near) == ["0", "1"]


async def test_an_empty_gallery_has_no_close_match(running: Running) -> None:
    answer = await ask(running, vector=axis(0).tolist())

    assert (answer["decision"], answer["reasons"]) == ("abstain", ["no_close_match"])


@pytest.mark.parametrize("bound", [{"max_query_uncertainty": 19.0}, {"max_query_percentile": 0.9}])
async def test_an_uncertain_query_is_not_answered(running: Running, bound: dict[str, Any]) -> None:
    await running.client.put("/gallery/a", content=flat(), headers=PNG)
    image = base64.b64encode(flat()).decode()

    refused = await ask(running, image=image, **bound)
    answered = await ask(running, image=image)

    assert (refused["decision"], refused["reasons"], refused["matches"]) == ("abstain", ["uncertain_query"], [])
    assert refused["query"]["uncertainty"] == pytest.approx(20, rel=1e-4)
    assert refused["threshold"]["query"]["source"] == "request"
    assert ids(answered) == ["a"]


async def test_a_stored_query_is_judged_by_its_stored_uncertainty(running: Running) -> None:
    await fill(running)

    assert (await ask(running, id="4", max_query_uncertainty=7.9))["reasons"] == ["uncertain_query"]
    assert (await ask(running, id="4", max_query_uncertainty=8.0))["decision"] == "match"


async def test_the_operators_threshold_is_for_queries_unless_they_bring_their_own(start: Start) -> None:
    async with start(max_uncertainty=5.0) as running:
        await fill(running)
        default = await ask(running, id="4")
        own = await ask(running, id="4", max_query_uncertainty=100)
        vector = await ask(running, vector=axis(0).tolist())

    assert default["reasons"] == ["uncertain_query"]
    assert default["threshold"]["query"] == {"uncertainty": 5.0, "percentile": None, "source": "settings"}
    assert default["threshold"]["result"]["source"] == "none"
    assert len(own["matches"]) == 4  # items above the operator's threshold are still found
    assert vector["decision"] == "match"
    assert vector["threshold"]["query"]["source"] == "none"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, "malformed_request"),
        ({"id": "a", "image": "aGk="}, "malformed_request"),
        ({"id": "a", "limit": 0}, "invalid_option"),
        ({"id": "a", "limit": 1001}, "invalid_option"),
        ({"id": "a", "score_threshold": 1.5}, "invalid_option"),
        ({"id": "a", "filter": "{"}, "invalid_option"),
        ({"id": "a", "filter": [1]}, "invalid_option"),
        ({"id": "a", "nonsense": 1}, "invalid_option"),
        ({"id": "a", "max_query_uncertainty": 1, "max_query_percentile": 0.5}, "invalid_option"),
        ({"id": "a", "max_result_uncertainty": 1, "max_result_percentile": 0.5}, "invalid_option"),
        ({"vector": [1.0] * DIMENSION, "max_query_percentile": 0.5}, "invalid_option"),
        ({"vector": [1.0] * DIMENSION, "filter": {"a": {"near": 1}}}, "invalid_filter"),
    ],
)
async def test_bad_questions_are_refused(running: Running, body: dict[str, Any], expected: str) -> None:
    assert kind(await running.client.post("/retrieve", json=body)) == (400, expected)


async def test_a_bad_image_is_the_answers_own_error(running: Running) -> None:
    response = await running.client.post("/retrieve", content=b"nonsense", headers=PNG)
    assert kind(response) == (415, "unsupported_format")


async def test_two_images_are_one_too_many(running: Running) -> None:
    files = [("image", ("a", png(), "image/png")), ("image", ("b", png(), "image/png"))]
    assert kind(await running.client.post("/retrieve", files=files)) == (400, "invalid_option")
