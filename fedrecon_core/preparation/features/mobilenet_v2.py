"""Feature ``mobilenet_v2``: pooled features of MobileNetV2 trained on ImageNet; needs the extra ``[features]``
(torchvision)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedrecon_core.config import Params
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.features.base import FloatArray, RawItem, WeightedFeature, require_library
from fedrecon_core.preparation.features.images import open_image, unit_pixels
from fedrecon_core.registry import FEATURES
from fedrecon_core.types import ModalitySpec

CHANNELS = 1280
FILE = "mobilenet_v2-b0353104.pth"
"""torchvision's file name of its first weights (IMAGENET1K_V1), which the benchmark uses."""
SOURCE = f"https://download.pytorch.org/models/{FILE}"
SHORT, CROP = 256, 224
MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)[:, None, None]
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)[:, None, None]
NARROWEST = 50
"""Largest aspect ratio: resizing a very narrow image would fill the memory."""


class MobileNetV2Params(Params):
    """``weights``: a file with a state dict of torchvision's MobileNetV2; default: the one in PyTorch's cache."""

    name: str = "mobilenet_v2"
    weights: str | None = Field(default=None, description="path, relative to where the command is run")


@FEATURES.register("mobilenet_v2")
class MobileNetV2(WeightedFeature):
    """The 1280 channels of the last convolution, averaged over the image. Images are processed one by one, which is not
    slower on a CPU, so that an array never depends on the rest of the batch."""

    Params = MobileNetV2Params
    medium: ClassVar[Literal["image"]] = "image"
    costly: ClassVar[bool] = True
    libraries: ClassVar[Mapping[str, str]] = {"torchvision": "torchvision", "pillow": "PIL"}
    version: ClassVar[int] = 2  # rotation according to EXIF data
    params: MobileNetV2Params

    @property
    def ragged(self) -> bool:
        """One vector per image."""
        return False

    def modality(self, name: str) -> ModalitySpec:
        """A vector."""
        return ModalitySpec(name=name, kind="vector", shape=(CHANNELS,), scale="standard")

    def locate(self) -> Sequence[Path]:
        """The file of weights."""
        if self.params.weights is not None:
            path = Path(self.params.weights).expanduser()
            advice = f"download {SOURCE}, or give its path (weights: PATH)"
        else:
            import torch  # here: `fedrecon data list` imports all features

            path = Path(torch.hub.get_dir()) / "checkpoints" / FILE
            advice = f"download {SOURCE} into that folder, or name another file (weights: PATH)"
        if not path.is_file():
            raise DataError(f"mobilenet_v2: expected its weights in {path}, found no file; {advice}")
        return (path,)

    def extract(self, contents: Sequence[RawItem]) -> list[FloatArray]:
        """float32 [1280] per image."""
        import torch

        with torch.inference_mode():
            inputs = (torch.from_numpy(network_input(content))[None] for content in contents)
            return [self._network(one).mean(dim=(2, 3))[0].numpy() for one in inputs]

    @cached_property
    def _network(self) -> Any:
        import torch

        (path,) = self.files
        cls = require_library("mobilenet_v2", "torchvision.models.mobilenetv2", "MobileNetV2")
        with torch.random.fork_rng(devices=[]):  # the constructor draws random weights
            network = cls().features
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            network.load_state_dict({key[9:]: state[key] for key in state if key.startswith("features.")})
        except Exception as error:  # the file may contain anything
            found = " ".join(str(error).split())[:120]
            raise DataError(f"{path}: expected a state dict of torchvision's MobileNetV2, found {found}") from None
        return network.float().eval()


def network_input(content: RawItem) -> FloatArray:
    """Preprocess as in training: resize the shorter side to 256, crop the center, standardize. Returns float32
    (3, 224, 224)."""
    from PIL import Image

    image = open_image(content, "RGB")
    short, long = sorted(image.size)
    if long > NARROWEST * short:
        found = f"{image.width} x {image.height} pixels"
        raise DataError(f"{content.origin}: expected sides of at most {NARROWEST} to 1, found {found}")
    width, height = (SHORT if side == short else int(SHORT * long / short) for side in image.size)
    left, top = (round((side - CROP) / 2) for side in (width, height))
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return (unit_pixels(resized.crop((left, top, left + CROP, top + CROP))) - MEAN) / STD
