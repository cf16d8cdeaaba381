"""Content hashes of what a score depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def content_key(name: str, facts: Any, tensors: Mapping[str, Tensor]) -> str:
    """`name` and a hash of `facts` (by their `repr`) and of the bytes of `tensors`."""
    content = hashlib.sha256(repr(facts).encode())
    for key, tensor in tensors.items():
        content.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        content.update(flat.view(torch.uint8).numpy().tobytes())
    return f"{name}-{content.hexdigest()[:24]}"
