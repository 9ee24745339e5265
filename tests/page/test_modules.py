"""The page's modules by themselves, in the browser, against the server's own Python."""

import json
from typing import Any

import numpy as np
import pytest
from httpx2 import Client
from playwright.sync_api import Page
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from tests.page.visit import Visit
from uncertainty.calibration import ReferenceQuantiles, reference_quantiles


def call(page: Page, module: str, function: str, *arguments: Any) -> Any:
    return page.evaluate(
        """async ([module, name, given]) => (await import(`/page/js/${module}.js`))[name](...given)""",
        [module, function, list(arguments)],
    )


@pytest.mark.parametrize("ties", [False, True])
def test_percentiles_are_those_of_the_server(page: Page, ties: bool) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=500)
    grid = reference_quantiles(np.round(values, 1) if ties else values, 101)
    scores = np.concatenate([rng.normal(size=40), grid[::10], [-9.0, 9.0]])
    expected = ReferenceQuantiles(grid).percentile(scores)
    told = [call(page, "quantiles", "percentileOf", grid.tolist(), score) for score in scores.tolist()]
    assert told == pytest.approx(expected.tolist(), abs=1e-12)


def test_the_raw_score_at_a_percentile_is_within_it(page: Page) -> None:
    grid = np.sort(np.random.default_rng(1).normal(size=201))
    for share in (0.0, 0.1234, 0.5, 0.9, 1.0):
        value = call(page, "quantiles", "valueAt", grid.tolist(), share)
        assert ReferenceQuantiles(grid).percentile(np.asarray([value]))[0] == pytest.approx(share)


def test_the_reference_distribution_has_the_shape_of_its_set(page: Page) -> None:
    grid = reference_quantiles(np.random.default_rng(2).normal(size=20_000), 201)
    heights = call(page, "quantiles", "density", grid.tolist(), [-3.0, 3.0], 60)
    assert max(heights) == 1.0
    expected = np.exp(-(np.linspace(-2.95, 2.95, 60) ** 2) / 2)
    assert heights == pytest.approx(expected.tolist(), abs=0.12)


def registry() -> bytes:
    registry = CollectorRegistry()
    requests = Counter("candor_requests", "n", ["route", "bundle"], registry=registry)
    requests.labels('a"b\\c\nd', "x").inc(3)
    requests.labels("/embed", "y").inc(4)
    seconds = Histogram("candor_request_seconds", "s", ["route"], buckets=(0.1, 0.2, 0.4), registry=registry)
    for value in (0.05, 0.15, 0.15, 0.3, 0.9):
        seconds.labels("/embed").observe(value)
    return generate_latest(registry)


def test_metrics_are_read_as_prometheus_writes_them(page: Page) -> None:
    samples = call(page, "metrics", "parseMetrics", registry().decode())
    named = {(sample["name"], json.dumps(sample["labels"])): sample["value"] for sample in samples}
    assert named["candor_requests_total", json.dumps({"bundle": "x", "route": 'a"b\\c\nd'})] == 3
    assert call(page, "metrics", "total", samples, "candor_requests_total") == 7
    assert call(page, "metrics", "total", call(page, "metrics", "ofBundle", samples, "y"), "candor_requests_total") == 4
    assert call(page, "metrics", "mean", samples, "candor_request_seconds") == pytest.approx(0.31)


@pytest.mark.parametrize(("share", "expected"), [(0.2, 0.1), (0.4, 0.15), (0.5, 0.175), (0.8, 0.4), (0.99, 0.4)])
def test_quantiles_of_a_histogram_are_linear_within_a_bucket(page: Page, share: float, expected: float) -> None:
    samples = call(page, "metrics", "parseMetrics", registry().decode())
    assert call(page, "metrics", "quantile", samples, "candor_request_seconds", share) == pytest.approx(expected)


def test_a_counter_that_fell_was_started_anew(page: Page) -> None:
    def sample(value: float) -> list[dict[str, Any]]:
        return [{"name": "n", "labels": {}, "value": value}]

    assert call(page, "metrics", "since", sample(5), sample(7))[0]["value"] == 2
    assert call(page, "metrics", "since", sample(5), sample(3))[0]["value"] == 3


def test_every_reason_of_the_server_has_words(visit: Visit, client: Client) -> None:
    document = client.get("/openapi.json").json()
    reasons = document["components"]["schemas"]["RetrieveAnswer"]["properties"]["reasons"]["items"]["enum"]
    assert len(reasons) == 5
    for by_policy in (True, False):
        for reason in reasons:
            words = call(visit.page, "words", "reasonInWords", reason, by_policy)
            assert words.endswith(".")
            assert "_" not in words
