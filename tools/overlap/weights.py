"""A bundle's autoencoder with its parts: codes and reconstructions, encoder and decoder apart."""

from __future__ import annotations

import io
import warnings

import torch
from torch import Tensor

from linescan.models.autoencoder import Autoencoder
from linescan.models.bundle import Bundle

BATCH = 64


def autoencoder_of(bundle: Bundle, dtype: torch.dtype = torch.bfloat16) -> Autoencoder:
    """The weights of a bundle in the network that they were trained in, channels last, for inference."""
    meta = bundle.metadata
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # as in linescan.models.bundle
        weights = torch.jit.load(io.BytesIO(bundle.data), map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
    model = Autoencoder(meta.latent_dim, meta.channels, meta.patch_size)
    model.load_state_dict(weights)
    return model.eval().to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


class Forward:
    """N×C×P×P float32 patches → codes N×d float32 and reconstructions N×C×P×P, in forwards of one fixed shape."""

    def __init__(self, model: Autoencoder) -> None:
        self.model = model
        self.dtype = next(model.parameters()).dtype

    def __call__(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        codes, reconstructions = [], []
        with torch.inference_mode():
            for part in patches.split(BATCH):
                batch = part.new_full((BATCH, *part.shape[1:]), 0.5)
                batch[: len(part)] = part
                code = self.model.encoder(batch.to(self.dtype, memory_format=torch.channels_last))
                codes.append(code.flatten(1)[: len(part)].float())
                reconstructions.append(self.model.decoder(code)[: len(part)].contiguous())
        return torch.cat(codes), torch.cat(reconstructions)
