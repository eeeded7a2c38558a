"""A student: a small network distilled from a model's own answers, whose gradient attacks can follow.

The queries are the sample's images, changed as an attack changes them: by noise, by mixtures with each other,
and along the student's own gradient, which shows where it is still wrong.

Source: Papernot et al. 2017, arXiv:1602.02697, section 4 (substitute model, Jacobian-based augmentation);
mixtures, Zhang et al. 2018, arXiv:1710.09412.
"""

from __future__ import annotations

import base64
import zlib

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from robustbench_local.attacks.adaptive.findings import Answers, StudentRecord
from robustbench_local.attacks.base import AttackInputs
from robustbench_local.attacks.core.losses import compute_margin
from robustbench_local.randomness import derive_seed
from robustbench_local.threats.lp_ball import compute_steepest_step

TOTAL_QUERIES = 9600
"""Queries that teach a student, where the next two limits allow."""
MIN_QUERIES_PER_IMAGE, MAX_QUERIES_PER_IMAGE = 150, 700
"""Queries for each image of the sample: at most a tenth of what the attack plans for each image of a cell."""
ROUNDS = 5
"""Rounds of queries, each followed by training: the student's gradient decides part of the next ones."""
BATCH_SIZE = 64
"""Answers per step of training."""
STEPS_PER_ROUND = 200
"""Steps of training after each round of queries."""
LEARNING_RATE = 2e-3
"""Adam's."""
MAX_SIDE_PIXELS = 32
"""Side to which the student shrinks larger images."""
LOGIT_RANGE = 10.0
"""Range to which logits are scaled before the student learns their softmax."""
_CHANNELS = (24, 48, 64)
_POOLED_SIDE = 4


class Student(nn.Module):
    """Three convolutions and a linear layer."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        first, second, third = _CHANNELS
        self.features = nn.Sequential(
            nn.Conv2d(channels, first, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(second, third, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(_POOLED_SIDE),
            nn.Flatten(),
        )
        self.head = nn.Linear(third * _POOLED_SIDE**2, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (N, K)."""
        if max(images.shape[2:]) > MAX_SIDE_PIXELS:
            images = F.interpolate(
                images, size=(MAX_SIDE_PIXELS, MAX_SIDE_PIXELS), mode="bilinear", antialias=True
            )
        logits: Tensor = self.head(self.features((images - 0.5) / 0.25))
        return logits


def train_student(inputs: AttackInputs, answers: Answers) -> StudentRecord:
    """Distill a student from the model's answers; passes of the student itself are not counted.

    Args:
        inputs: The model, the sample and the threat model, N at least 1.
        answers: What the model's answers say.
    """
    generator = torch.Generator().manual_seed(derive_seed("student", *inputs.stream.ids, inputs.stream.seed))
    with torch.random.fork_rng([]), torch.enable_grad():
        torch.random.manual_seed(derive_seed("weights", inputs.stream.seed) % 2**31)
        student = Student(inputs.images.shape[1], inputs.classifier.num_classes).to(inputs.images.device)
        optimizer = torch.optim.Adam(student.parameters(), lr=LEARNING_RATE)
        queries, targets, agreement = [], [], 0.0
        per_image = TOTAL_QUERIES // len(inputs.images)
        per_image = min(MAX_QUERIES_PER_IMAGE, max(MIN_QUERIES_PER_IMAGE, per_image))
        for round_ in range(ROUNDS):
            asked = _make_queries(inputs, per_image // ROUNDS, student if round_ else None, generator)
            received = _ask_model(inputs, asked, answers)
            with torch.no_grad():
                agreement = float((student(asked).argmax(dim=1) == received.argmax(dim=1)).float().mean())
            queries.append(asked)
            targets.append(received)
            _train_steps(student, optimizer, torch.cat(queries), torch.cat(targets), generator)
    return StudentRecord(
        channels=inputs.images.shape[1],
        num_classes=inputs.classifier.num_classes,
        answers=answers,
        queries=sum(len(asked) for asked in queries),
        agreement=agreement,
        weights=_pack_weights(student),
    )


def rebuild_student(record: StudentRecord) -> Student:
    """Return the student of a record, in evaluation mode, without gradients of its weights."""
    student = Student(record.channels, record.num_classes)
    packed = np.frombuffer(zlib.decompress(base64.b64decode(record.weights)), dtype=np.float16)
    values = torch.from_numpy(packed.astype(np.float32))
    first = 0
    for parameter in student.parameters():
        parameter.data = values[first : first + parameter.numel()].view_as(parameter).clone()
        first += parameter.numel()
    return student.eval().requires_grad_(requires_grad=False)


def _pack_weights(student: Student) -> str:
    flat = torch.cat([parameter.detach().flatten().cpu() for parameter in student.parameters()])
    return base64.b64encode(zlib.compress(flat.half().numpy().tobytes())).decode()


def _make_queries(
    inputs: AttackInputs, count: int, student: Student | None, generator: torch.Generator
) -> Tensor:
    """Make a round of queries: noise, mixtures, and steps along the student's gradient.

    Args:
        inputs: The sample and the threat model.
        count: Queries of an image.
        student: The student so far; None: noise in place of its gradient.
        generator: Draws the noise and the mixtures.
    """
    images = inputs.images.cpu().repeat(count, 1, 1, 1)
    kinds = torch.arange(count).repeat_interleave(len(inputs.images)) % 3
    others = images[torch.randperm(len(images), generator=generator)]
    share = 0.6 * torch.rand(len(images), 1, 1, 1, generator=generator)
    mixed = torch.where((kinds == 1).view(-1, 1, 1, 1), (1 - share) * images + share * others, images)
    # beyond the ball, too: there the model's answers change
    reach = inputs.threat.eps * (0.5 + 2 * torch.rand(len(images), 1, 1, 1, generator=generator))
    noise = torch.randn(images.shape, generator=generator)
    if student is not None:
        slope = _compute_slopes(student, mixed.to(inputs.images.device), inputs.labels.repeat(count))
        noise = torch.where((kinds == 2).view(-1, 1, 1, 1), slope.cpu(), noise)
    step = compute_steepest_step(noise, inputs.threat.norm)
    return (mixed + reach * step).clamp(0, 1).to(inputs.images.device)


def _compute_slopes(student: Student, images: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the student's margin, (N, C, H, W)."""
    leaf = images.detach().requires_grad_()
    (slope,) = torch.autograd.grad(compute_margin(student(leaf), labels).sum(), leaf)
    return slope


def _ask_model(inputs: AttackInputs, queries: Tensor, answers: Answers) -> Tensor:
    """Return the model's answers as probabilities, (M, K)."""
    rows = torch.arange(len(queries), device=queries.device) % len(inputs.images)
    size = inputs.classifier.limit_batch_size(BATCH_SIZE)
    answered = []
    with torch.no_grad():
        for first in range(0, len(queries), size):
            part = slice(first, first + size)
            answered.append(inputs.classifier(queries[part], rows[part]).nan_to_num())
    logits = torch.cat(answered)
    if answers == "labels":
        return F.one_hot(logits.argmax(dim=1), logits.shape[1]).float()
    are_probabilities = bool(((logits >= 0) & ((logits.sum(dim=1, keepdim=True) - 1).abs() < 1e-3)).all())
    logits = logits.clamp_min(1e-6).log() if are_probabilities else logits
    spread = (logits.amax(dim=1) - logits.amin(dim=1)).median().clamp_min(1e-12)
    return torch.softmax(logits * (LOGIT_RANGE / spread), dim=1)


def _train_steps(
    student: Student,
    optimizer: torch.optim.Optimizer,
    queries: Tensor,
    targets: Tensor,
    generator: torch.Generator,
) -> None:
    """Train on random batches of all answers so far."""
    student.train()
    for _ in range(STEPS_PER_ROUND):
        chosen = torch.randint(len(queries), (BATCH_SIZE,), generator=generator).to(queries.device)
        loss = F.cross_entropy(student(queries[chosen]), targets[chosen])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    student.eval()
