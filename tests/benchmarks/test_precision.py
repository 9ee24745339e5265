import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import precision
from benchmarks.precision import compared_speed
from models.bundle import DEFAULT_BUNDLE
from tests.offline import pictures, write_packed


def test_two_graphs_take_turns_on_the_same_batch() -> None:
    seen: list[str] = []

    def run(name: str, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        assert len(images) == 4
        seen.append(name)
        return []

    found = compared_speed([lambda x: run("a", x), lambda x: run("b", x)], np.zeros((4, 2, 2, 3), np.uint8), 0.0)

    assert seen == ["a", "a", "b", "b"] * precision.ROUNDS
    assert found["batch"] == 4
    assert min(found["original_images_per_s"], found["lowered_images_per_s"], found["ratio"]) > 0


def test_a_report_names_its_command_and_compares_every_set(tmp_path: Path) -> None:
    data, out = write_packed(tmp_path / "data.npz", *pictures(8, 0, 0.0)), tmp_path / "out.json"
    bundles = ["--original", str(DEFAULT_BUNDLE.with_name("default-fp32")), "--lowered", str(DEFAULT_BUNDLE)]

    precision.main([*bundles, "--data", f"mine={data}", "--seconds", "0", "--out", str(out)])

    found = json.loads(out.read_text())
    assert found["command"].endswith(f"--out {out}")
    assert found["precision"] == "int8"
    assert found["sets"]["mine"]["images"] == 48
    assert 0.9 < found["sets"]["mine"]["cosine_mean"] < 1
    assert [row["batch"] for row in found["speed"]] == list(precision.BATCHES)
