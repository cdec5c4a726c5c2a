"""What a device's errors mean: too little memory, which smaller batches may mend, or a driver that is lost."""

from __future__ import annotations

import re

import torch

OutOfMemory = torch.cuda.OutOfMemoryError
_LIBRARIES = re.compile(r"\b(CUDA|cuDNN|CUDNN|CUBLAS|CUFFT)[ _]")  # as torch names them in errors of its own


def device_lost(error: RuntimeError) -> bool:
    """Whether an error of torch says that the device's driver or context is gone.

    Nothing that this process asks of the device can succeed afterwards; another process may have better luck.
    """
    if isinstance(error, OutOfMemory):
        return False
    return isinstance(error, torch.AcceleratorError) or bool(_LIBRARIES.search(str(error)))
