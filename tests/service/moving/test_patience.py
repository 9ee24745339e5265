"""An engine that is away for a moment is waited for; any other failure is not."""

import pytest

from service.gallery.base import GalleryError, GalleryUnavailable
from service.moving.patience import patiently


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.moving.patience.WAITS_S", (0.0,) * 3)


@pytest.mark.parametrize(("failures", "works"), [(0, True), (3, True), (4, False)])
async def test_an_engine_that_comes_back_in_time_is_asked_again(failures: int, works: bool) -> None:
    left = [GalleryUnavailable("away")] * failures

    async def action() -> str:
        if left:
            raise left.pop()
        return "done"

    if works:
        assert await patiently(action) == "done"
    else:
        with pytest.raises(GalleryUnavailable, match="away"):
            await patiently(action)


async def test_what_will_not_pass_is_raised_at_once() -> None:
    calls = []

    async def action() -> None:
        calls.append(1)
        raise GalleryError("another bundle")

    with pytest.raises(GalleryError, match="another bundle"):
        await patiently(action)
    assert len(calls) == 1
