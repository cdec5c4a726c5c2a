"""A short training of the demo's model with an encoder that can be shared: how its edges are padded, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linescan.config import InspectionSettings, SsimSettings
from linescan.footage import open_footage
from linescan.inspection.lines import channels_first, to_unit
from linescan.models.autoencoder import Autoencoder, initialise
from linescan.models.bundle import load_bundle
from linescan.models.memory import keep_freed_memory
from linescan.training.dataset import PatchSampler
from linescan.training.evaluate import read_mask
from linescan.training.losses import reconstruction_loss
from overlap.judging import Judge, compare_web, judged_table
from overlap.sets import Web
from overlap.shared_encoder import CONTEXT, Padding, patch_codes, surrounded, with_padding
from overlap.weights import autoencoder_of

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "tools" / "demo"
LATENT, SIZE, BATCH, RATE = 100, 128, 64, 2e-4
SIGMA = 4.0  # of the demo's bundle


def train(output: Path, padding: Padding, epochs: int, patches: int, seed: int, start: Path | None = None) -> None:
    """Trains as `linescan train` does, on all of tools/demo/train; writes weights and padding to `output`.

    From He's initialisation, or from the weights of the bundle `start`, of the same latent dimension.
    """
    keep_freed_memory()
    images = [web for _, web in _frames(DEMO / "train")]
    border = CONTEXT if padding == "context" else 0
    sampler = PatchSampler(
        [surrounded(web) if border else web for web in images], SIZE + 2 * border, torch.device("cpu")
    )
    generator = torch.Generator().manual_seed(seed)
    places = sampler.draw(patches, generator)
    model = Autoencoder(LATENT, 1, SIZE)
    initialise(model, float(torch.cat([web.flatten() for web in images]).mean()), generator)
    if start is not None:
        model.load_state_dict(autoencoder_of(load_bundle(start), torch.float32).state_dict())
    with_padding(model, padding).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(model.parameters(), RATE, weight_decay=1e-5, fused=True)
    for epoch in range(epochs):
        order = torch.randperm(patches, generator=generator)
        losses = [
            _step(model, sampler.cut(places[chosen]), padding, border, optimiser) for chosen in order.split(BATCH)
        ]
        print(f"{padding}: epoch {epoch + 1}, loss {sum(losses) / len(losses):.4f}", flush=True)
        torch.save({"weights": model.state_dict(), "padding": padding, "epochs": epoch + 1}, output)


def _step(model: Autoencoder, crops: Tensor, padding: Padding, border: int, optimiser: torch.optim.Optimizer) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        codes = patch_codes(model, crops.contiguous(memory_format=torch.channels_last), padding)
        reconstruction = model.decoder(codes)
    wanted = crops[..., border : border + SIZE, border : border + SIZE]
    loss = reconstruction_loss("ssim", wanted, reconstruction.float().contiguous(), SsimSettings())
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return float(loss.detach())


def judge_file(path: Path) -> None:
    """Prints what a model of `train` finds on tools/demo/plain, with the encoder patch by patch and shared."""
    stored: dict[str, Any] = torch.load(path, weights_only=True)
    model = Autoencoder(LATENT, 1, SIZE)
    model.load_state_dict(stored["weights"])
    judge = Judge(None)
    judge.padding = stored["padding"]
    judge.model = with_padding(model, judge.padding).eval().to(dtype=torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    judge.settings = InspectionSettings(threshold=0.0, smoothing_sigma=SIGMA)
    frames = _frames(DEMO / "plain")
    defect = [torch.from_numpy(read_mask(DEMO / "plain" / "masks" / f"{name}.png")) for name, _ in frames]
    compare_web(judge, Web("plain", torch.cat([web for _, web in frames], -2), torch.cat(defect).numpy()))
    print(f"\n### {judge.padding}, {stored['epochs']} epochs\n\n{judged_table(judge)}")


def _frames(folder: Path) -> list[tuple[str, Tensor]]:
    with open_footage(str(folder / "0*.png")) as footage:
        return [
            (Path(frame.name).stem, to_unit(channels_first(frame.pixels), frame.bit_depth))
            for frame in footage
            if frame.pixels is not None
        ]
