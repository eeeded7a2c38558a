"""Memory that runs out in a question to a model: fewer images at once, the same answers."""

from __future__ import annotations

import errno

import pytest
import torch
from torch import nn

from robustbench_local.classifier import Classifier, memory_limit
from robustbench_local.classifier.foreign_errors import is_out_of_memory

IMAGES = torch.rand(13, 3, 6, 6, generator=torch.Generator().manual_seed(0))
SHORTAGE = "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch):
    """Collecting garbage takes a tenth of a second in a process that has imported everything."""
    monkeypatch.setattr(memory_limit.gc, "collect", lambda: 0)


class Greedy(nn.Module):
    """A network for which memory runs out with more than ``most`` images, forward or backward."""

    def __init__(self, most: int = 10**6, *, backward: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5))
        self.most, self.backward, self.sizes = most, backward, []

    def forward(self, images):
        self.sizes.append(len(images))
        logits = self.net(images)
        if len(images) <= self.most:
            return logits
        if not self.backward:
            raise RuntimeError(SHORTAGE)
        if logits.requires_grad:
            logits.register_hook(self._fail)
        return logits

    def _fail(self, _slope):
        raise RuntimeError(SHORTAGE)


def ask(model, **settings):
    """The answers, the gradients of one and of two losses, and the passes counted."""
    classifier = Classifier(model, num_classes=5).configure(**settings)
    with classifier.evaluation_mode(), classifier.count_passes(len(IMAGES), limit=3) as counter:
        parts = [classifier(IMAGES), *classifier.compute_gradient(IMAGES, lambda logits: logits.logsumexp(1))]
        parts += classifier.compute_gradient(IMAGES, lambda logits: logits[:, :2].square())
    return classifier, parts, (counter.forward_passes.tolist(), counter.backward_passes.tolist())


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("most", [7, 6, 1])
def test_fewer_images_at_once_give_the_same_answers_at_the_same_count(most, backward):
    _, expected, passes = ask(Greedy())
    model = Greedy(most, backward=backward)
    classifier, parts, spent = ask(model)
    for part, other in zip(parts, expected, strict=True):
        torch.testing.assert_close(part, other)
    assert spent == passes == ([3] * 13, [3] * 13)
    assert classifier.memory_limit.max_images == {7: 7, 6: 4, 1: 1}[most]
    assert max(model.sizes[-6:]) == classifier.memory_limit.max_images  # the large size is not tried again


@pytest.mark.parametrize("settings", [{"fixed_batch_size": 3}, {"min_batch_size": 2}])
def test_sizes_that_a_model_needs_are_kept(settings):
    model = Greedy(5 if "fixed_batch_size" in settings else 2)
    _, parts, _ = ask(model, **settings)
    torch.testing.assert_close(parts[0], ask(Greedy())[1][0])
    assert set(model.sizes[-20:]) <= {3} | ({2} if "min_batch_size" in settings else set())


def test_images_that_do_not_fit_alone_leave_the_limit_as_it_was():
    model = Greedy(0)
    classifier = Classifier(model, num_classes=5)
    with classifier.evaluation_mode(), pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        classifier(IMAGES)
    assert (classifier.memory_limit.max_images, model.sizes) == (None, [13, 7, 4, 2, 1])
    with classifier.memory_limit.raise_at_once(), pytest.raises(RuntimeError):
        classifier(IMAGES)
    assert model.sizes[5:] == [13]
    classifier = Classifier(Greedy(2), num_classes=5).configure(fixed_batch_size=3)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        classifier(IMAGES)


def test_an_attack_of_another_library_gets_gradients_in_parts_too():
    expected, model = None, Greedy(4)
    for net in (Greedy(), model):
        leaf = IMAGES.clone().requires_grad_()
        classifier = Classifier(net, num_classes=5)
        with classifier.evaluation_mode():
            classifier.as_module(IMAGES)(leaf).logsumexp(1).sum().backward()
        expected = leaf.grad if expected is None else expected
        torch.testing.assert_close(leaf.grad, expected)
    assert classifier.memory_limit.limit_size(64) == 4
    classifier.memory_limit.lower_limit(None)
    classifier.memory_limit.lower_limit(9)
    assert classifier.limit_batch_size(64) == 4


def _make_foreign_error(module: str, text: str) -> Exception:
    return type("RuntimeException", (Exception,), {"__module__": module})(text)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError(SHORTAGE), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("unable to mmap 8 bytes from file <w.pt>: Cannot allocate memory (12)"), True),
        (RuntimeError("could not create a memory object"), True),
        (RuntimeError("[GPU] CL_MEM_OBJECT_ALLOCATION_FAILURE"), True),
        (_make_foreign_error("onnxruntime.capi", "Failed to allocate memory for requested buffer"), True),
        (_make_foreign_error("onnxruntime.capi", "BFCArena::AllocateRawInternal"), True),
        (_make_foreign_error("onnxruntime.capi", "Invalid rank for input"), False),
        (_make_foreign_error("somewhere", "out of memory"), False),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
        (SystemError("error return without exception set"), True),
        (SystemError("<method> returned NULL without setting an exception"), True),
        (SystemError("unknown opcode"), False),
    ],
)
def test_out_of_memory_is_recognised(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
