"""Does MCInfoNCE recover posteriors that are known? A generative process on the sphere, inverted from pairs alone.

    python -m benchmarks.known_posteriors --out benchmarks/results/known-posteriors.json

Every observation x has a true posterior vMF(mu(x), kappa(x)) over the latent that it shows. A pair is positive where
the latents of its two observations are close, by vMF(., kappa_pos). The encoder sees pairs and never a latent; then its
kappa and the similarity of its means are compared, by rank, with the truth on observations that it never saw.

The setting is that of Kirchhof et al. (ICML 2023), arXiv:2302.02865, with mu uniform on the sphere and independent of
kappa, which makes every step of the process exact. As there, kappa_pos is given, and the means are trained first.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.methods.base import Batch, Sizes
from models.methods.fit import Schedule, fit
from models.methods.mcinfonce import MCInfoNCE
from models.vmf import sample_vmf
from scripts.common import write_json
from uncertainty.metrics import spearman

STEPS_PER_EPOCH = 50


@dataclass(frozen=True)
class Setting:
    """The process (its dimension, the range of kappa(x), and kappa_pos), the encoder, and how it is trained."""

    dimension: int = 5
    lowest_kappa: float = 8.0
    highest_kappa: float = 128.0
    positive_kappa: float = 20.0
    width: int = 128
    features: int = 32
    samples: int = 128
    pairs: int = 32
    mean_steps: int = 500
    steps: int = 2500
    learning_rate: float = 3e-3


@dataclass(frozen=True)
class Process:
    """A generative process: x = leaky(h `inner`) `outer`, where h holds mu and log kappa; the map is injective."""

    setting: Setting
    inner: Tensor
    outer: Tensor

    def posteriors(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw mu (n, d), uniform on the sphere, and kappa (n,), uniform in its logarithm."""
        low, high = self.setting.lowest_kappa, self.setting.highest_kappa
        mean = F.normalize(torch.randn(count, self.setting.dimension), dim=1)
        return mean, low * (high / low) ** torch.rand(count)

    def observe(self, mean: Tensor, kappa: Tensor) -> Tensor:
        """The x (n, d + 1) whose posterior this is."""
        low, high = math.log(self.setting.lowest_kappa), math.log(self.setting.highest_kappa)
        level = math.sqrt(12) * ((kappa.log() - low) / (high - low) - 0.5)  # of unit variance, as the mean's parts
        shown = torch.cat([math.sqrt(self.setting.dimension) * mean, level[:, None]], dim=1)  # (n, d + 1)
        return F.leaky_relu(shown @ self.inner, 0.2) @ self.outer

    def pairs(self, count: int) -> Tensor:
        """Positive pairs (2, n, d + 1).

        With mu uniform and independent of kappa, what may show a latent z has any kappa and a mu from vMF(z, kappa).
        """
        mean, kappa = self.posteriors(count)
        latent = sample_vmf(mean, kappa, 1)[0]  # (n, d)
        near = sample_vmf(latent, torch.full((count,), self.setting.positive_kappa), 1)[0]
        _, other_kappa = self.posteriors(count)
        other_mean = sample_vmf(near, other_kappa, 1)[0]
        return torch.stack([self.observe(mean, kappa), self.observe(other_mean, other_kappa)])


@dataclass(frozen=True)
class PairBatches:
    """New pairs at every step."""

    process: Process
    steps: int
    seed: int

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self.steps

    def __call__(self, epoch: int) -> Iterator[Batch]:
        """The epoch's batches, drawn apart from the random numbers of the training."""
        count = self.process.setting.pairs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash((self.seed, epoch)))
            drawn = [self.process.pairs(count) for _ in range(self.steps)]
        nothing = torch.zeros(count, dtype=torch.long), torch.empty(2, 0)
        return (Batch(features, *nothing) for features in drawn)


def main() -> None:
    """Recover the posteriors of as many processes as there are seeds, and write how well that went."""
    options = _arguments().parse_args()
    setting = Setting(mean_steps=options.mean_steps, steps=options.steps)
    runs = []
    for seed in range(options.seeds):
        started = time.process_time()
        runs.append({"seed": seed, **recovery(setting, seed), "cpu_s": round(time.process_time() - started, 1)})
        print(runs[-1], flush=True)
    command = " ".join(["python -m benchmarks.known_posteriors", *sys.argv[1:]])
    write_json(options.out, {"command": command, "setting": asdict(setting), "mean": _mean(runs), "runs": runs})


def recovery(setting: Setting, seed: int) -> dict[str, float]:
    """Draw a process, and invert it by a small network."""
    torch.manual_seed(seed)
    return inverted(make_process(setting), make_encoder(setting), setting.features, seed)


def make_process(setting: Setting) -> Process:
    """A process with two random orthogonal matrices."""
    size = setting.dimension + 1
    inner, outer = (torch.linalg.qr(torch.randn(size, size))[0] for _ in range(2))
    return Process(setting, inner, outer)


def make_encoder(setting: Setting) -> nn.Module:
    """A network with three hidden layers."""
    widths = [setting.dimension + 1, setting.width, setting.width, setting.width]
    layers: list[nn.Module] = []
    for size, following in pairwise(widths):
        layers += [nn.Linear(size, following), nn.LeakyReLU()]
    return nn.Sequential(*layers, nn.Linear(setting.width, setting.features))


def inverted(
    process: Process, encoder: nn.Module, features: int, seed: int, observations: int = 1000
) -> dict[str, float]:
    """Train an encoder to `features` and the method's head, first all but kappa, and compare with the truth.

    Returns: Spearman's rank correlation of kappa, and of the cosine between means over all pairs of new observations;
    the median of recovered over true kappa.
    """
    setting, head = process.setting, make_head(process, encoder, features)
    for part, steps in enumerate((setting.mean_steps, setting.steps)):
        head.scalar.requires_grad_(part == 1)
        schedule = Schedule(epochs=steps // STEPS_PER_EPOCH, learning_rate=setting.learning_rate, seed=seed)
        fit(head, PairBatches(process, STEPS_PER_EPOCH, 2 * seed + part), schedule, backbone=encoder)
    mean, kappa = process.posteriors(observations)
    with torch.no_grad():
        found_mean, found_kappa = head.distribution(encoder(process.observe(mean, kappa)))
    pairs = np.triu_indices(observations, 1)
    cosine, found_cosine = ((rows @ rows.T).numpy()[pairs] for rows in (mean, found_mean))
    return {
        "spearman_kappa": spearman(found_kappa.numpy(), kappa.numpy()),
        "spearman_cosine": spearman(found_cosine, cosine),
        "median_kappa_ratio": float((found_kappa / kappa).median()),
    }


def make_head(process: Process, encoder: nn.Module, features: int) -> MCInfoNCE:
    """The method's head, of the process's own dimension and with its kappa_pos for inverse temperature."""
    setting = process.setting
    sizes = Sizes(features, features, classes=1)
    head = MCInfoNCE(sizes, setting.dimension, setting.samples, inverse_temperature=setting.positive_kappa)
    head.log_inverse_temperature.requires_grad_(False)
    with torch.no_grad():
        observed = encoder(process.observe(*process.posteriors(2000)))  # (2000, f)
    head.prepare(observed, torch.zeros(len(observed), dtype=torch.long))
    return head


def _mean(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([run[name] for run in runs])) for name in runs[0] if name.startswith("spearman")}


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--mean-steps", type=int, default=Setting.mean_steps)
    arguments.add_argument("--steps", type=int, default=Setting.steps)
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    main()
