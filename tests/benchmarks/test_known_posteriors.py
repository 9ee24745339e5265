import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import known_posteriors
from benchmarks.known_posteriors import PairBatches, Process, Setting, inverted, make_encoder, make_process
from models.vmf import mean_resultant_length

QUICK = Setting(
    lowest_kappa=4.0, highest_kappa=256.0, samples=64, pairs=16, mean_steps=50, steps=350, learning_rate=0.02
)


class PlainProcess(Process):
    """A process that needs no network: mu is there twice, and the higher kappa, the more of it in the first half."""

    def observe(self, mean: Tensor, kappa: Tensor) -> Tensor:
        low, high = self.setting.lowest_kappa, self.setting.highest_kappa
        level = ((kappa / low).log() / math.log(high / low))[:, None]
        return torch.cat([level * mean, (1 - level) * mean], dim=1)


def test_an_observation_shows_its_posterior() -> None:
    torch.manual_seed(0)
    process = make_process(Setting())
    mean, kappa = process.posteriors(50)

    shown = process.observe(mean, kappa) @ process.outer.T  # undo the outer matrix, then the kinks, then the inner
    shown = torch.where(shown < 0, shown / 0.2, shown) @ process.inner.T

    assert (shown[:, :-1] / math.sqrt(5)).numpy() == pytest.approx(mean.numpy(), abs=1e-5)
    assert (8.0 * 16.0 ** (shown[:, -1] / math.sqrt(12) + 0.5)).numpy() == pytest.approx(kappa.numpy(), rel=1e-4)


def test_a_pair_is_as_close_as_its_posteriors_allow() -> None:
    torch.manual_seed(0)
    setting = Setting(lowest_kappa=8.0, highest_kappa=8.0001)
    process = make_process(setting)
    pairs = process.pairs(4000) @ process.outer.T
    means = (torch.where(pairs < 0, pairs / 0.2, pairs) @ process.inner.T)[..., :-1] / math.sqrt(5)  # (2, n, d)

    length = mean_resultant_length(torch.tensor([8.0, 20.0]), 5)
    assert float((means[0] * means[1]).sum(dim=1).mean()) == pytest.approx(float(length[0] ** 2 * length[1]), abs=0.02)


def test_equal_epochs_are_equal_and_leave_the_training_its_random_numbers() -> None:
    torch.manual_seed(0)
    batches = PairBatches(make_process(Setting()), steps=2, seed=1)
    state = torch.get_rng_state()
    first, again, other = (list(batches(epoch)) for epoch in (0, 0, 1))

    assert torch.get_rng_state().equal(state)
    assert len(first) == len(batches) == 2
    assert first[1].features.shape == (2, 32, 6)
    assert first[1].features.equal(again[1].features)
    assert not first[0].features.equal(first[1].features)
    assert not first[0].features.equal(other[0].features)


def test_a_short_training_recovers_the_order_and_the_size_of_the_true_posteriors() -> None:
    torch.manual_seed(0)
    process = PlainProcess(QUICK, torch.empty(0), torch.empty(0))

    found = inverted(process, nn.Identity(), 10, seed=0, observations=400)

    assert found["spearman_kappa"] > 0.7
    assert found["spearman_cosine"] > 0.95
    assert 0.4 < found["median_kappa_ratio"] < 2.5


def test_the_full_setting_trains_network_and_head_together() -> None:
    torch.manual_seed(0)
    setting = Setting(samples=4, pairs=4, mean_steps=50, steps=50)
    encoder = make_encoder(setting)
    before = [parameter.clone() for parameter in encoder.parameters()]

    found = inverted(make_process(setting), encoder, setting.features, seed=0, observations=50)

    assert all(not new.equal(old) for new, old in zip(encoder.parameters(), before, strict=True))
    assert found.keys() == {"spearman_kappa", "spearman_cosine", "median_kappa_ratio"}


def test_the_command_writes_setting_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "result.json"
    monkeypatch.setattr(sys, "argv", ["x", "--seeds", "2", "--mean-steps", "50", "--steps", "50", "--out", str(out)])
    monkeypatch.setattr(known_posteriors, "STEPS_PER_EPOCH", 1)
    monkeypatch.setattr(known_posteriors, "recovery", lambda setting, seed: {"spearman_kappa": float(seed)})

    known_posteriors.main()

    written = json.loads(out.read_text())
    assert written["command"].startswith("python -m benchmarks.known_posteriors --seeds 2")
    assert written["setting"]["dimension"] == 5
    assert [run["seed"] for run in written["runs"]] == [0, 1]
    assert written["mean"] == {"spearman_kappa": 0.5}
