import random

import pytest

from service.policies.state import SKETCH, GalleryState, Sketcher


def state_of(ids: range, uncertainty: float = 0.5) -> GalleryState:
    sketcher = Sketcher()
    sketcher.add((f"item-{i}", uncertainty) for i in ids)
    return sketcher.state()


def test_the_state_does_not_depend_on_the_order() -> None:
    items = [(f"item-{i}", i / 7) for i in range(2000)]
    first, second = Sketcher(), Sketcher()
    first.add(items)
    random.Random(0).shuffle(items)
    for item in items:
        second.add([item])
    assert first.state() == second.state()
    assert first.state().hash == second.state().hash
    assert len(first.state().sketch) == SKETCH


@pytest.mark.parametrize(
    ("now", "share"),
    [
        (range(10_000), 0.0),
        (range(11_000), 1 / 11),
        (range(40_000), 0.75),
        (range(5_000), 0.5),
        (range(10_000, 20_000), 1.0),
        (range(1_000, 11_000), 2 / 11),
    ],
)
def test_the_share_that_changed_is_told(now: range, share: float) -> None:
    assert state_of(now).changed_since(state_of(range(10_000))) == pytest.approx(share, abs=0.06)


def test_an_item_of_another_image_is_another_item() -> None:
    assert state_of(range(100), 0.5).changed_since(state_of(range(100), 0.6)) == 1.0
    assert state_of(range(100), 0.5).hash != state_of(range(100), 0.6).hash


def test_small_galleries_are_compared_exactly_and_empty_ones_too() -> None:
    assert state_of(range(90)).changed_since(state_of(range(100))) == pytest.approx(0.1)
    assert state_of(range(0)).changed_since(state_of(range(0))) == 0.0
    assert state_of(range(5)).changed_since(state_of(range(0))) == 1.0
