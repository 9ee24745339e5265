"""Which backbone at which input size: short equal trainings judged on classes never seen, and their cost on one core.

    python -m benchmarks.backbones --data ../shared/data --work runs/backbones --out benchmarks/results/backbones.json

Each candidate sees the same images for the same number of epochs; a head is then trained on held-out images of the
upstream classes, and R@1 and R-AUROC are measured on the 20 validation classes. The cost is that of one image
at batch 1 in onnxruntime on one thread. A candidate already in the result file is not trained again.
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from models.backbone import Backbone, load_backbone
from models.dataset import limited_index
from models.datasets import open_dataset
from models.graph import open_graph
from models.heads import predict
from models.methods.base import Sizes
from models.methods.fit import Schedule
from models.methods.registry import METHODS
from models.representations import Representations, cache_representations
from models.representer import export_representer
from scripts import train_backbone
from scripts.common import write_json
from scripts.train_head import joined, train_head
from uncertainty.metrics import r_auroc, recall_at_1
from uncertainty.neighbours import nearest_neighbour

METHOD = "retrieval-loss"  # the head that candidates are judged with
HALF_WIDTH: Mapping[str, object] = {"channels": [32, 64, 128, 256]}
CANDIDATES: list[tuple[str, Mapping[str, object], int]] = [
    ("resnet18", HALF_WIDTH, 64),
    ("resnet18", HALF_WIDTH, 128),
    ("regnetx_002", {}, 96),
    ("fasternet_t0", {}, 96),
]


def main() -> None:
    """Judge every candidate that has no result yet, then measure the cost of all, one after the other."""
    options = _arguments().parse_args()
    results = json.loads(options.out.read_text()) if options.out.is_file() else {}
    for model, args, size in CANDIDATES:
        key = _key(model, args, size)
        if key not in results:
            results[key] = {"model": model, "args": args, "size": size, **_judge(key, model, args, size, options)}
            write_json(options.out, results)
    for key, row in results.items():
        row["cpu_ms"] = _cpu_ms(load_backbone(options.work / key), options.work / key)
        write_json(options.out, results)
    print(_table(results))


def _key(model: str, args: Mapping[str, object], size: int) -> str:
    """One name for a candidate, that a folder can have."""
    channels = args.get("channels", list(args.values()))
    assert isinstance(channels, list)
    return f"{model}-{'-'.join(map(str, channels))}-{size}".replace("--", "-")


def _table(results: dict[str, dict[str, object]]) -> str:
    """Markdown, the best R@1 per CPU-millisecond first."""
    columns = ("parameters", "dimension", "cpu_ms", "recall_at_1", "r_auroc")
    rows = sorted(results.items(), key=lambda item: -float(str(item[1]["recall_at_1"])) / float(str(item[1]["cpu_ms"])))
    lines = ["| candidate | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for key, row in rows:
        cells = [f"{row[c]:.3f}" if isinstance(row[c], float) else str(row[c]) for c in columns]
        lines.append(f"| {key} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _judge(
    key: str, model: str, args: Mapping[str, object], size: int, options: argparse.Namespace
) -> dict[str, object]:
    tiny, splits = options.data / "tiny-imagenet-200", Path("scripts/splits/tiny-imagenet.json")
    folder = options.work / key
    command = [model, "--args", json.dumps(dict(args)), "--size", str(size), "--epochs", str(options.epochs)]
    command += ["--data", f"{tiny}/train-[0-7].npz@{splits}:upstream", "--out", str(folder)]
    command += ["--limit", str(options.limit)] if options.limit else []
    command += ["--teacher", str(options.teacher)] if options.teacher else []
    train_backbone.main(command)
    backbone = load_backbone(folder)
    head_cache = _cache(backbone, f"{tiny}/train-8.npz@{splits}:upstream", folder / "cache-head", 8000, views=1)
    unseen = _cache(backbone, f"{tiny}/train-*.npz@{splits}:validation", folder / "cache-unseen", 5000, views=0)
    examples = joined([head_cache], backbone, METHODS[METHOD].target, layers=False)
    sizes = Sizes(head_cache.dimension, head_cache.dimension, int(examples.labels.max()) + 1)
    head, _ = train_head(METHOD, sizes, examples, Schedule(), {})
    clean = np.asarray(unseen.clean, dtype=np.float32)
    correct = unseen.labels[nearest_neighbour(clean)[0]] == unseen.labels
    return {
        "parameters": sum(p.numel() for p in backbone.module.parameters()),
        "dimension": clean.shape[1],
        "recall_at_1": recall_at_1(unseen.labels, nearest_neighbour(clean)[0]),
        "r_auroc": r_auroc(predict(head, clean), correct),
    }


def _cache(backbone: Backbone, spec: str, folder: Path, limit: int, views: int) -> Representations:
    dataset = open_dataset(spec)
    index = limited_index(len(dataset), limit)
    return cache_representations(backbone, dataset, folder, augmented_views=views, index=index, workers=1)


def _cpu_ms(backbone: Backbone, folder: Path, repetitions: int = 200) -> float:
    """Median milliseconds of one image on one thread."""
    export_representer(backbone, folder / "representations.onnx")
    run = open_graph(folder / "representations.onnx", threads=1)
    side = backbone.preprocessing.size
    image = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    times = []
    for _ in range(repetitions):
        started = time.perf_counter()
        run(image)
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True, help="folder that holds tiny-imagenet-200/")
    arguments.add_argument("--teacher", type=Path, help="cache of a teacher's representations of the upstream images")
    arguments.add_argument("--epochs", type=int, default=1)
    arguments.add_argument("--limit", type=int, help="images to train on, at most")
    arguments.add_argument("--work", type=Path, required=True)
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    main()
