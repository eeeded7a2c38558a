"""Exceptions from code outside this package: their meaning and their message."""

from __future__ import annotations

import errno

import torch

from robustbench_local.errors import ModelMemoryError, escape_unprintable

_OUT_OF_MEMORY_TEXTS = (
    "out of memory",  # CUDA, HIP, MPS
    "out_of_memory",  # oneDNN
    "defaultcpuallocator",
    "bad_alloc",
    "t allocate memory",  # can't
    "cannot allocate memory",  # the system's
    "failed to allocate memory",  # ONNX Runtime, LiteRT
    "bfcarena",  # ONNX Runtime
    "_alloc_failed",  # cuBLAS, cuDNN, cuSOLVER
    "_allocation_fail",  # cuDNN, OpenCL under OpenVINO
    "out_of_host_memory",
    "out_of_resources",
    "resource_exhausted",
    "could not create a memory object",  # oneDNN, as the two below
    "could not create a primitive",
    "could not execute a primitive",
)
"""What libraries say, in lower case, when an allocation fails."""
_UNSET_ERROR_TEXTS = ("error return without exception set", "without setting an exception")
"""What Python says of a library whose allocation failed and which does not say so: a SystemError."""
_RUNTIMES = frozenset({"onnxruntime", "openvino", "ai_edge_litert", "numpy"})
"""Packages whose exceptions are no RuntimeError."""

_TORCHSCRIPT_HEAD = "The following operation failed in the TorchScript interpreter"


def is_out_of_memory(error: BaseException) -> bool:
    """Check whether an exception means that memory ran out, on a GPU or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, SystemError):
        return any(sign in str(error) for sign in _UNSET_ERROR_TEXTS)
    if not isinstance(error, RuntimeError) and type(error).__module__.split(".")[0] not in _RUNTIMES:
        return False
    text = str(error).lower()
    return any(sign in text for sign in _OUT_OF_MEMORY_TEXTS)


def refuse_shortage(error: BaseException, where: str) -> None:
    """Tell a lack of memory from a file that is wrong.

    Args:
        error: What a library has raised while it loaded a model.
        where: Name of the file or the model in messages.

    Raises:
        ModelMemoryError: If memory ran out.
    """
    if is_out_of_memory(error):
        raise ModelMemoryError(
            "memory runs out while it is loaded",
            where=where,
            remedy="end other programs, or give it more memory; the same command tries again",
        ) from error


def extract_first_line(error: BaseException, limit: int = 200) -> str:
    """Return an exception's message as part of one line, at most ``limit`` characters.

    TorchScript's message begins with a stack of its program; the error itself is its last line.
    """
    lines = str(error).strip().splitlines() or ["no message"]
    line = lines[-1] if lines[0].startswith(_TORCHSCRIPT_HEAD) else lines[0]
    return escape_unprintable(line[:limit]).rstrip(". ")
