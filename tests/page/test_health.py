"""The health view: what `/metrics` says, read while somebody looks."""

from httpx2 import Client
from playwright.sync_api import expect
from prometheus_client.parser import text_string_to_metric_families

from tests.page.pictures import picture
from tests.page.visit import Visit


def counted(client: Client) -> dict[str, float]:
    """Requests by endpoint, as a client of Prometheus reads them."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == "candor_requests_total":
                key = f"{sample.labels['method']} {sample.labels['route']}"
                found[key] = found.get(key, 0) + sample.value
    return found


def test_the_server_is_told_of_and_followed(visit: Visit, client: Client) -> None:
    page = visit.page
    client.put("/gallery/a", content=picture(1.0), headers={"content-type": "image/png"})
    page.get_by_role("link", name="Health").click()
    expect(page.locator("#health-lead")).to_contain_text("Ready. Bundle tiny, patches on cpu")
    tiles = page.locator("#health-tiles")
    for name in ("Requests", "Median latency", "99th percentile", "Queue", "Batch", "Images", "Abstentions", "Gallery"):
        expect(tiles.get_by_text(name, exact=True)).to_be_visible()
    expect(tiles.locator(".tile").last.locator(".value")).to_have_text("1")
    client.post("/embed", content=picture(0.5), headers={"content-type": "image/png"})
    embeds = counted(client)["POST /embed"]
    row = page.get_by_role("row").filter(has_text="POST /embed")
    expect(row.get_by_role("cell").first).to_have_text(f"{embeds:,.0f}")


def test_metrics_are_read_only_while_somebody_looks(visit: Visit) -> None:
    page = visit.page
    with page.expect_response("**/metrics"):
        page.get_by_role("link", name="Health").click()
    with page.expect_response("**/metrics"):  # and again, by itself
        pass
    page.get_by_role("link", name="Images").click()
    page.clock.install()
    read = len(visit.sent("GET", "/metrics"))
    page.clock.run_for(30_000)
    assert len(visit.sent("GET", "/metrics")) == read
