"""Train any timm model to classify images, from scratch, from pretrained weights, or helped by a teacher.

    candor train-backbone resnet18 --data 'tiny/train-*.npz@splits.json:upstream' --size 64 --out runs/backbone

With `--teacher FOLDER`, a cache of another backbone's representations of the same images, each view is also pulled
towards the teacher's representation of that same view. A run killed at any point goes on from its last checkpoint and
ends with the same weights as one that was not.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from models.augment import Augmentation
from models.backbone import classify, create_backbone, represent, save_backbone
from models.dataset import limited_index, select
from models.datasets import open_dataset
from models.losses import cosine_distillation
from models.preprocess import Preprocessing
from models.schedule import warm_cosine
from models.views import Views, view_batches
from scripts.backbone_data import (
    Images,
    Schedule,
    Teacher,
    batches,
    flipped,
    load_teacher,
    validation_images,
    with_projection,
)
from scripts.common import (
    add_compute_arguments,
    command_line,
    current_commit,
    json_object,
    log_to_stderr,
    parser,
    write_json,
)

CHECKPOINT = "checkpoint.pt"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    options = _arguments().parse_args(argv)
    dataset = open_dataset(options.data)
    index = limited_index(len(dataset), options.limit)
    schedule = Schedule(**{key: getattr(options, key) for key in Schedule.__dataclass_fields__})
    torch.manual_seed(schedule.seed)
    backbone = create_backbone(
        options.model,
        classes=dataset.classes,
        args=options.args,
        preprocessing=Preprocessing(options.size, options.crop_pct) if options.size else None,
        pretrained=options.pretrained,
    )
    teacher = load_teacher(options.teacher, select(dataset, index).fingerprint) if options.teacher else None
    augmentation = teacher.augmentation if teacher else Augmentation(options.min_scale, options.jitter, schedule.seed)
    training = {
        "data": options.data_note or dataset.name,
        "images": index.size,
        "licence": options.licence,
        "teacher": options.teacher_note if teacher else "none",
        "schedule": asdict(schedule),
        "command": command_line(),
        "commit": current_commit(),
    }
    history = train(
        backbone.module,
        Images(dataset, index, augmentation, backbone.preprocessing),
        schedule,
        options.out,
        teacher=teacher,
        validation=validation_images(options.validation, options.validation_limit, backbone.preprocessing),
        device=options.device,
        workers=options.workers,
    )
    save_backbone(replace(backbone, module=backbone.module.cpu(), training=training), options.out)
    write_json(options.out / "training.json", {**training, "history": history})
    log_to_stderr().info("%s: %s", options.out, json.dumps(history[-1:]))


def train(
    module: nn.Module,
    images: Images,
    schedule: Schedule,
    folder: Path,
    *,
    teacher: Teacher | None = None,
    validation: Images | None = None,
    device: str = "cpu",
    workers: int = 2,
    checkpoint_every: int = 100,
) -> list[dict[str, float]]:
    """Train in place, from the folder's checkpoint if there is one, to the end of the schedule; return its history.

    Every random choice is drawn anew from (seed, epoch) or (seed, step), so the step count is all there is to remember.
    """
    model = with_projection(module, images.preprocessing, teacher).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    steps_per_epoch = max(1, images.index.size // schedule.batch_size)
    total = schedule.epochs * steps_per_epoch
    made_from = _made_from(images, schedule, teacher)
    step, history = _resume(folder, model, optimizer, made_from, device)
    with tqdm(total=total, initial=step, desc=f"train {folder.name}", unit="step") as bar:
        while step < total:
            epoch, skipped = divmod(step, steps_per_epoch)
            losses = []
            for pixels, labels, targets in batches(images, teacher, schedule, epoch, skipped, workers):
                torch.manual_seed(schedule.seed * 1_000_003 + step)
                for group in optimizer.param_groups:
                    group["lr"] = schedule.learning_rate * warm_cosine(step, total)
                model.train()
                with torch.autocast(torch.device(device).type, torch.bfloat16):
                    representation = represent(module, flipped(pixels).to(device), images.preprocessing)  # (b, d)
                    logits = classify(module, representation).float()  # (b, c)
                    loss = F.cross_entropy(logits, labels.to(device), label_smoothing=schedule.label_smoothing)
                    if targets is not None:
                        projected = model["projection"](representation).float()  # (b, d of the teacher)
                        loss = loss + schedule.teacher_weight * cosine_distillation(projected, targets.to(device))
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
                losses.append(float(loss.detach()))
                step += 1
                bar.update()
                bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}")
                if step % checkpoint_every == 0 and step % steps_per_epoch:
                    _save_checkpoint(folder, model, optimizer, made_from, step, history)
            history.append({"epoch": epoch + 1, "loss": float(np.mean(losses))})
            if validation is not None:
                history[-1]["validation_accuracy"] = accuracy(module, validation, device, workers)
                tqdm.write(json.dumps(history[-1]))
            _save_checkpoint(folder, model, optimizer, made_from, step, history)
    module.eval()
    return history


def accuracy(module: nn.Module, images: Images, device: str, workers: int) -> float:
    """Top-1 accuracy of the classifier on clean views."""
    numbers = np.zeros(images.index.size, dtype=np.int64)
    views = Views(images.dataset, images.index, numbers, images.augmentation, images.preprocessing)
    module.eval()
    with torch.inference_mode():
        predicted = [
            classify(module, represent(module, pixels.to(device), images.preprocessing)).argmax(dim=1).cpu()
            for pixels in view_batches(views, 128, workers)
        ]
    return float(np.mean(torch.cat(predicted).numpy() == images.dataset.labels[images.index]))


def _made_from(images: Images, schedule: Schedule, teacher: Teacher | None) -> dict[str, Any]:
    """What a checkpoint must have in common with the run that goes on from it."""
    return {
        "schedule": asdict(schedule),
        "images": select(images.dataset, images.index).fingerprint,
        "augmentation": asdict(images.augmentation),
        "preprocessing": asdict(images.preprocessing),
        "teacher": teacher.hash if teacher else None,
    }


def _resume(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, made_from: dict[str, Any], device: str
) -> tuple[int, list[dict[str, float]]]:
    """The step and history of the folder's checkpoint, its weights loaded; (0, []) where there is none."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return 0, []
    state = torch.load(path, map_location=device, weights_only=True)
    differing = [key for key, value in made_from.items() if state.get(key, value) != value]
    if differing:
        raise SystemExit(f"{path} belongs to another {', '.join(differing)}; choose another --out")
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise SystemExit(f"{path} belongs to another model; choose another --out") from error
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["history"]


def _save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    made_from: dict[str, Any],
    step: int,
    history: list[dict[str, float]],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "history": history}
    partial = folder / f"{CHECKPOINT}.partial"
    torch.save({**made_from, **state}, partial)
    partial.replace(folder / CHECKPOINT)


def _arguments() -> argparse.ArgumentParser:
    arguments = parser("train-backbone", __doc__)
    arguments.add_argument("model", help="timm model name")
    arguments.add_argument("--args", type=json_object, default={}, help="JSON arguments for timm.create_model")
    arguments.add_argument("--pretrained", action="store_true", help="start from timm's weights (downloads them)")
    arguments.add_argument("--data", required=True, help="data set spec, e.g. 'photos/' or 'train-*.npz@0-49'")
    arguments.add_argument("--limit", type=int, help="train on at most this many images, drawn at random")
    arguments.add_argument("--validation", help="spec of images of the same classes, for the accuracy by epoch")
    arguments.add_argument("--validation-limit", type=int, default=2000)
    arguments.add_argument("--data-note", help="what the data is, for the record, instead of its spec")
    arguments.add_argument("--licence", default="unknown", help="terms of the training data")
    arguments.add_argument("--size", type=int, help="input size in pixels, instead of the model's own settings")
    arguments.add_argument("--crop-pct", type=float, default=1.0, help="share of the short side kept for evaluation")
    arguments.add_argument("--epochs", type=int, default=20)
    arguments.add_argument("--batch-size", type=int, default=128)
    arguments.add_argument("--learning-rate", type=float, default=2e-3)
    arguments.add_argument("--weight-decay", type=float, default=0.05)
    arguments.add_argument("--label-smoothing", type=float, default=0.1)
    arguments.add_argument("--min-scale", type=float, default=0.25, help="smallest share of the area a crop keeps")
    arguments.add_argument("--jitter", type=float, default=0.4, help="strength of the colour jitter")
    arguments.add_argument("--teacher", type=Path, help="cache of a teacher's representations of the same images")
    arguments.add_argument("--teacher-weight", type=float, default=4.0, help="weight of the teacher's loss")
    arguments.add_argument("--teacher-note", default="", help="what the teacher is, for the record")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--out", type=Path, required=True, help="backbone folder to write")
    add_compute_arguments(arguments)
    return arguments


if __name__ == "__main__":
    main()
