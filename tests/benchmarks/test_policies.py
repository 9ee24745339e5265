"""The benchmark of policies, from small pictures to its tables, on a real server."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.policies import __main__ as benchmark
from benchmarks.policies import splits
from benchmarks.policies.asking import Asked
from benchmarks.policies.sets import NO_MATCH, Setting, part
from benchmarks.policies.splits import TARGETS, outcome, split
from tests.service.bundle_factory import make_bundle
from tests.service.images import encode, picture

CLASSES, EACH = 20, 24


def pictures(root: Path, first: int) -> Path:
    """A folder of `CLASSES` classes: `EACH` copies of one picture with more or less noise."""
    for label in range(first, first + CLASSES):
        place = root / f"c{label:02d}"
        place.mkdir(parents=True)
        original = np.asarray(picture(label).convert("RGB"), dtype=np.float64)
        for copy in range(EACH):
            noise = np.random.default_rng(1000 * label + copy).normal(0, 20 + 60 * (copy % 3), original.shape)
            noisy = Image.fromarray(np.clip(original + noise, 0, 255).astype(np.uint8))
            (place / f"{copy:02d}.png").write_bytes(encode(noisy))
    return root


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    root = tmp_path_factory.mktemp("pictures")
    return Setting("noise", str(pictures(root / "known", 0)), 0.25, str(pictures(root / "strangers", CLASSES)))


def test_one_query_in_ten_is_of_a_class_that_the_gallery_lacks(setting: Setting) -> None:
    parted = part(setting, 3)
    held = {one.label for one in parted.gallery}
    without = [one for one in parted.queries if one.label not in held]
    assert len(without) == pytest.approx(NO_MATCH * len(parted.queries), abs=1)
    assert not {one.place for one in parted.gallery} & {one.place for one in parted.queries}
    assert part(setting, 3).gallery == parted.gallery
    assert part(setting, 4).gallery != parted.gallery


def test_it_runs_from_pictures_to_tables(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "settings_in", lambda data: (setting,))
    monkeypatch.setattr(splits, "DRAWS", 5)
    bundle, out = make_bundle(tmp_path / "bundle"), tmp_path / "policies.json"
    arguments = ["--data", str(tmp_path), "--bundle", str(bundle), "--work", str(tmp_path / "work"), "--out", str(out)]

    benchmark.main([*arguments, "--galleries", "1", "--splits", "3"])
    found = json.loads(out.read_text())["sets"]["noise"]
    benchmark.main([*arguments, "--galleries", "1", "--splits", "4"])  # of what is kept, without a server
    again = json.loads(out.read_text())["sets"]["noise"]

    assert found["agrees"]
    assert (found["splits"], again["splits"], found["draws"]) == (3, 4, 5)
    assert [target["k"] for target in found["targets"]] == [target.k for target in TARGETS]
    assert found["r_auroc"]["score"]["mean"] > 0.5
    (watched,) = found["watched"]
    assert set(watched["a gallery four times the size"]["statuses"]) <= {"stale", "alarm"}
    assert watched["as certified"]["looks"] == 0  # fewer queries than a window holds
    assert "| blurred queries |" in out.with_suffix(".md").read_text()
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_what_a_split_promises_is_held_against_its_test_queries() -> None:
    rng = np.random.default_rng(0)
    asked = []
    for _ in range(2000):
        top = float(rng.random())
        relevant = tuple((rng.random(50) < top**0.3).tolist())
        asked.append(Asked({"top_score": top, "uncertainty": float(rng.random())}, relevant))
    parts = split(len(asked), 1)
    assert sorted(np.concatenate([parts.development, parts.certification, parts.test])) == list(range(2000))

    found = outcome(asked, parts)

    first = found["targets"][0]
    surest = sorted((asked[place] for place in parts.test), key=lambda one: -one.evidence["top_score"])
    wrong = [not one.relevant[0] for one in surest[: first["accepted"]]]
    assert first["risk"] == pytest.approx(np.mean(wrong), abs=0.02)  # the score is all but the cosine
    assert 0.2 < first["coverage"] < 0.8
    assert first["coverage"] == first["accepted"] / parts.test.size
    assert max(found["targets"][4]["missed_by_part"]) < 0.3
    assert found["r_auroc"]["score"] > found["r_auroc"]["uncertainty"]
