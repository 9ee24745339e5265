"""The inference session against numpy, and what it refuses."""

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from models.bundle import Bundle, load_bundle
from service.lanes import BoundLane, HostLane
from service.providers import PROVIDERS, missing_for, provider_options
from service.session import SessionError, batch_buckets, open_session
from service.settings import Device, Settings
from tests.service.bundle_factory import SIZE, expected, make_bundle


def noise(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def test_outputs_are_the_graphs(bundle: Bundle) -> None:
    images = noise(3)
    outputs = open_session(bundle, Settings(device=Device.CPU)).run(list(images))

    for i, image in enumerate(images):
        embedding, uncertainty, novelty = expected(image)
        np.testing.assert_allclose(outputs.embedding[i], embedding, atol=1e-6)
        assert outputs.uncertainty[i] == pytest.approx(uncertainty, rel=1e-5)
        assert outputs.novelty[i] == pytest.approx(novelty, rel=1e-5)


@pytest.mark.parametrize("count", range(1, 9))
def test_the_size_of_the_batch_and_its_padding_change_nothing(bundle: Bundle, count: int) -> None:
    session = open_session(bundle, Settings(device=Device.CPU, max_batch=8))
    images = noise(8)

    batch, alone = session.run(list(images[:count])), [session.run([image]) for image in images[:count]]

    assert batch.embedding.shape == (count, 48)
    np.testing.assert_allclose(batch.embedding, np.concatenate([one.embedding for one in alone]), atol=1e-6)
    np.testing.assert_allclose(batch.uncertainty, np.concatenate([one.uncertainty for one in alone]), rtol=1e-6)
    np.testing.assert_allclose(batch.novelty, np.concatenate([one.novelty for one in alone]), rtol=1e-6)


@pytest.mark.parametrize("max_batch", [1, 2, 3, 4, 5, 7, 8, 10, 32, 33, 100])
def test_buckets_end_at_the_most_and_waste_less_than_a_third(max_batch: int) -> None:
    buckets = batch_buckets(max_batch)

    assert buckets[0] == 1
    assert buckets[-1] == max_batch
    assert list(buckets) == sorted(set(buckets))
    for count in range(1, max_batch + 1):
        bucket = next(bucket for bucket in buckets if bucket >= count)
        assert (bucket - count) / bucket < 1 / 3


@pytest.mark.parametrize("runtime", [True, False])
def test_auto_serves_on_the_cpu_where_cuda_cannot_be_had(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, runtime: bool
) -> None:
    monkeypatch.setattr("service.session.has_provider", lambda device: runtime)
    monkeypatch.setattr("service.session.missing_for", lambda device: ["no card"])

    assert open_session(bundle, Settings(device=Device.AUTO)).device is Device.CPU
    assert ("no card" in caplog.text) is runtime  # who installed the CUDA runtime wants to know


def test_cuda_is_refused_with_all_that_is_missing(bundle: Bundle) -> None:
    if not missing_for(Device.CUDA):
        pytest.skip("CUDA works here")
    with pytest.raises(SessionError) as refused:
        open_session(bundle, Settings(device=Device.CUDA))

    message = str(refused.value)
    assert "CANDOR_DEVICE=cuda" in message
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        assert f"onnxruntime {ort.__version__}" in message
        assert "CPUExecutionProvider" in message
        assert "candor[gpu]" in message


def test_a_provider_that_falls_back_to_the_cpu_is_noticed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing seems to be missing, and yet onnxruntime gives a session on the CPU: it does so with a warning only."""
    monkeypatch.setattr("service.session.has_provider", lambda device: True)
    monkeypatch.setattr("service.session.missing_for", lambda device: [])
    monkeypatch.setattr("service.session.provider_options", lambda *_, **__: [("CPUExecutionProvider", {})])

    with pytest.raises(SessionError, match="could not start CUDAExecutionProvider"):
        open_session(bundle, Settings(device=Device.CUDA))
    assert open_session(bundle, Settings(device=Device.AUTO)).device is Device.CPU


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dimension": 47}, "48"),
        ({"outputs": ["embedding", "uncertainty", "novelty"]}, "class_entropy"),
        (
            {"preprocessing": {"size": 64, "interpolation": "bicubic", "crop_pct": 1, "mean": [0] * 3, "std": [1] * 3}},
            "64",
        ),
    ],
)
def test_a_graph_that_is_not_the_manifests_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    bundle = load_bundle(make_bundle(tmp_path / "bundle", **changes))

    with pytest.raises(SessionError, match=message):
        open_session(bundle, Settings(device=Device.CPU))


def test_a_graph_whose_numbers_are_not_finite_is_refused(tmp_path: Path) -> None:
    bundle = load_bundle(make_bundle(tmp_path / "bundle", scale=float("inf")))

    with pytest.raises(SessionError, match="uncertainty is not finite"):
        open_session(bundle, Settings(device=Device.CPU))


def test_a_graph_that_is_none_is_refused(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle", graph_sha256=hashlib.sha256(b"nonsense").hexdigest())
    (folder / "model.onnx").write_bytes(b"nonsense")

    with pytest.raises(SessionError, match="cannot load"):
        open_session(load_bundle(folder), Settings(device=Device.CPU))


def test_the_service_reaches_no_training_package() -> None:
    code = "import sys, service.main, service.gallery.lance; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    loaded = set(done.stdout.split())
    assert {"onnxruntime", "fastapi", "lancedb"} <= loaded
    assert not loaded & {"torch", "torchvision", "timm", "onnx", "scipy", "matplotlib"}


def test_a_lane_on_bound_buffers_says_what_one_on_host_memory_says(bundle: Bundle) -> None:
    session = ort.InferenceSession(bundle.graph_path, providers=["CPUExecutionProvider"])
    host = HostLane(session, 4, SIZE)
    bound = BoundLane(session, (1, 2, 4), SIZE, bundle.manifest.dimension, memory="cpu")
    kept = []
    for count, bucket in [(4, 4), (1, 1), (3, 4), (2, 2), (1, 4)]:
        images = list(noise(count))
        expected_outputs, found = host.run(images, bucket), bound.run(images, bucket)
        for name in ("embedding", "uncertainty", "novelty"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected_outputs, name))
            assert getattr(found, name).shape[0] == count
        kept.append((found, found.embedding.copy()))
    for found, embedding in kept:  # later runs used the same buffers
        np.testing.assert_array_equal(found.embedding, embedding)


def test_calls_at_once_take_lanes_of_their_own(bundle: Bundle) -> None:
    session = open_session(bundle, Settings(device=Device.CPU, lanes=3, threads=1, max_batch=2))
    images = noise(30)
    alone = [session.run([image]).embedding[0] for image in images]

    with ThreadPoolExecutor(6) as pool:  # more than there are lanes
        together = list(pool.map(lambda image: session.run([image]).embedding[0], [*images] * 20))

    np.testing.assert_array_equal(together, [*alone] * 20)


@pytest.mark.parametrize("device", [Device.TENSORRT, Device.OPENVINO])
def test_a_device_that_is_not_installed_is_refused_with_what_to_install(bundle: Bundle, device: Device) -> None:
    if not missing_for(device):
        pytest.skip(f"{device} works here")
    with pytest.raises(SessionError, match=f"CANDOR_DEVICE={device.value}") as refused:
        open_session(bundle, Settings(device=device))
    assert PROVIDERS[device] in str(refused.value)


@pytest.mark.parametrize("device", list(PROVIDERS))
def test_every_device_falls_back_on_the_cpu_for_operators_it_lacks(device: Device) -> None:
    options = provider_options(device, threads=3, max_batch=8, size=64, cuda_graphs=True)

    assert options[0][0] == PROVIDERS[device]
    assert options[-1] == ("CPUExecutionProvider", {})
    assert all(isinstance(value, str) for _, chosen in options for value in chosen.values())
    chosen = dict(options)
    assert chosen.get("CUDAExecutionProvider", {}).get("enable_cuda_graph", "0") == str(int(device is Device.CUDA))
    if device is Device.TENSORRT:
        assert chosen["TensorrtExecutionProvider"]["trt_profile_max_shapes"] == "image:8x64x64x3"


def test_a_device_on_which_embeddings_are_others_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenVINO's are for some int8 graphs: nothing fails, and every answer is wrong."""
    monkeypatch.setattr("service.session.missing_for", lambda device: [])
    monkeypatch.setattr("service.session.provider_options", lambda *_, **__: [("CPUExecutionProvider", {})])
    monkeypatch.setattr("service.session.PROVIDERS", dict.fromkeys(Device, "CPUExecutionProvider"))
    settings = Settings(device=Device.OPENVINO, max_batch=1)
    assert open_session(bundle, settings).device is Device.OPENVINO

    right = HostLane.run
    calls = 0

    def wrong_on_the_first_lane(self: HostLane, images: Any, bucket: int) -> Any:
        nonlocal calls
        calls += 1
        outputs = right(self, images, bucket)
        return replace(outputs, embedding=np.roll(outputs.embedding, 1, axis=1)) if calls <= 2 else outputs

    monkeypatch.setattr(HostLane, "run", wrong_on_the_first_lane)
    with pytest.raises(SessionError, match="not those on the CPU"):
        open_session(bundle, settings)
