"""``python -m benchmarks.twins``: an int8 file searched through its float network, beside a loop by hand."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

# before torch starts its threads
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import typer
from torch import Tensor
from torch.nn import functional

import robustbench_local as rbl
from benchmarks.subjects import load_model

_CALIBRATION_IMAGES = 120
_CALIBRATION_BATCH = 20


def main(
    model: Annotated[str, typer.Option(help="signs-plain, or cifar10-resnet2b.")] = "signs-plain",
    shared: Annotated[Path | None, typer.Option(help="Folder with CIFAR images and checkpoints.")] = None,
    image_count: Annotated[int, typer.Option("--images", help="Images attacked.", min=1)] = 60,
    eps: Annotated[float, typer.Option(help="Radius in levels of 255.", min=0)] = 2,
    restarts: Annotated[int, typer.Option(help="Restarts of the loop by hand.", min=1)] = 10,
    attacks: Annotated[str, typer.Option(help="Comma-separated attacks.")] = "square,pgd,apgd",
) -> None:
    """Print what each search leaves of the int8 file and of its float network, image by image compared."""
    torch.set_num_threads(1)
    subject = load_model(model, image_count + _CALIBRATION_IMAGES, shared)
    if subject is None:
        raise typer.BadParameter(f"{model} needs --shared")
    twin, images, labels = subject.classifier, subject.images, subject.labels
    attacked = images[:image_count], labels[:image_count]
    with TemporaryDirectory() as folder:
        path = write_int8_file(twin, images[image_count:], Path(folder))
        artefact = rbl.load_classifier(f"onnx:{path}", num_classes=twin.num_classes, access="scores")
        lost = run_loop_by_hand(artefact, twin, attacked, eps / 255, restarts=restarts)
        kept = int((~lost).sum())
        print(f"loop by hand, {restarts} restarts: {kept} of {image_count} robust")
        for attack in attacks.split(","):
            rows = search(artefact, twin, attacked, attack, eps / 255)
            ours = torch.tensor((rows["broken"] | ~rows["clean_correct"]).tolist())
            float_robust = int((rows["twin_clean_correct"] & ~rows["twin_broken"]).sum())
            print(
                f"{attack}: {int((~ours).sum())} of {image_count} robust, the float network {float_robust}; "
                f"lost by hand only: {int((lost & ~ours).sum())}, here only: {int((ours & ~lost).sum())}; "
                f"{rows['search_phase'].value_counts().to_dict()}"
            )


def search(artefact: Any, twin: Any, data: tuple[Tensor, Tensor], attack: str, eps: float) -> Any:
    """Return the outcomes of an attack through the twin; Square runs 1,000 queries of the artefact alone."""
    settings = {"queries": 1000} if attack == "square" else {}
    result = rbl.evaluate(
        artefact, data, twin=twin, attack=attack, norm="Linf", eps=eps, diagnostics=False, **settings
    )
    return result.outcomes


def write_int8_file(classifier: Any, calibration: Tensor, folder: Path) -> Path:
    """Export a classifier with its normalization, and quantize it statically to int8 (QDQ)."""
    quantization: Any = import_module("onnxruntime.quantization")  # an extra

    class Normalized(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = classifier.module
            mean, std = classifier.normalization or ((0.0,), (1.0,))
            self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

        def forward(self, images: Tensor) -> Tensor:
            return self.network((images - self.mean) / self.std)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]  # untyped
        def __init__(self) -> None:
            self.batches = iter(torch.split(calibration, _CALIBRATION_BATCH))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.numpy()}

    source, prepared, target = (folder / name for name in ("float.onnx", "prepared.onnx", "int8.onnx"))
    torch.onnx.export(
        Normalized().eval(),
        (calibration[:1],),
        str(source),
        dynamo=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}},
    )
    quantization.shape_inference.quant_pre_process(str(source), str(prepared))
    form = quantization.QuantFormat.QDQ
    quantization.quantize_static(str(prepared), str(target), Reader(), quant_format=form)
    return target


def run_loop_by_hand(
    artefact: Any, twin: Any, data: tuple[Tensor, Tensor], eps: float, *, restarts: int, steps: int = 50
) -> Tensor:
    """Run PGD on the float network, and ask the file about every step; return the images it loses, (N,)."""
    images, labels = data
    lost = ~_is_right(artefact, images, labels)
    for restart in range(restarts):
        generator = torch.Generator().manual_seed(restart)
        points = images + eps * (2 * torch.rand(images.shape, generator=generator) - 1)
        points = points.clamp(0, 1)
        for _ in range(steps):
            leaf = points.requires_grad_()
            loss = functional.cross_entropy(twin(leaf), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, leaf)
            points = points.detach() + 2.5 * eps / steps * gradient.sign()
            points = torch.minimum(torch.maximum(points, images - eps), images + eps).clamp(0, 1)
            lost |= ~_is_right(artefact, points, labels)
    return lost


def _is_right(artefact: Any, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        logits = artefact(images)
    own = logits.gather(1, labels[:, None]).squeeze(1)
    return own > logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)


if __name__ == "__main__":
    typer.run(main)
