"""Feature ``mobilenet_v2``: what MobileNetV2, trained on ImageNet, makes of an image before it classifies it; needs the
extra ``[features]`` (torchvision)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedrecon_core.config import Params
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.features.base import FloatArray, RawItem
from fedrecon_core.preparation.features.extra import require_library
from fedrecon_core.preparation.features.pictures import open_picture, unit_pixels
from fedrecon_core.preparation.features.weights import WeightedFeature
from fedrecon_core.registry import FEATURES
from fedrecon_core.types import ModalitySpec

if TYPE_CHECKING:
    from PIL.Image import Image

CHANNELS = 1280
FILE = "mobilenet_v2-b0353104.pth"
"""torchvision's own name of its first weights (IMAGENET1K_V1), those of the benchmark."""
SOURCE = f"https://download.pytorch.org/models/{FILE}"
SHORT, CROP = 256, 224
MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)[:, None, None]
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)[:, None, None]
NARROWEST = 50
"""How many times longer than the other a side may be: resizing a thread of pixels would fill the memory."""


class MobileNetV2Params(Params):
    """``weights``: a file with a state dict of torchvision's MobileNetV2; by default the one in PyTorch's cache."""

    name: str = "mobilenet_v2"
    weights: str | None = Field(default=None, description="path, relative to where the command is run")


@FEATURES.register("mobilenet_v2")
class MobileNetV2(WeightedFeature):
    """The 1280 channels of the last convolution, each averaged over the image. Images pass one by one, which costs a
    CPU no time, so that an array never depends on its neighbours."""

    Params = MobileNetV2Params
    medium: ClassVar[Literal["image"]] = "image"
    costly: ClassVar[bool] = True
    libraries: ClassVar[Mapping[str, str]] = {"torchvision": "torchvision", "pillow": "PIL"}
    version: ClassVar[int] = 2  # images are turned as their EXIF data say
    params: MobileNetV2Params

    @property
    def ragged(self) -> bool:
        """One vector per image."""
        return False

    def modality(self, name: str) -> ModalitySpec:
        """A vector."""
        return ModalitySpec(name=name, kind="vector", shape=(CHANNELS,), scale="standard")

    def locate(self) -> Sequence[Path]:
        """The one file."""
        if self.params.weights is not None:
            path, told = Path(self.params.weights).expanduser(), f"fetch {SOURCE}, or give its path (weights: PATH)"
        else:
            path = Path(torch.hub.get_dir()) / "checkpoints" / FILE
            told = f"fetch {SOURCE} into that folder, or name another file (weights: PATH)"
        if not path.is_file():
            raise DataError(f"mobilenet_v2: expected the file of its weights {path}, found none; {told}")
        return (path,)

    @torch.inference_mode()
    def extract(self, contents: Sequence[RawItem]) -> list[FloatArray]:
        """float32 [1280] per image."""
        return [self._row(network_input(content)) for content in contents]

    def _row(self, pixels: FloatArray) -> FloatArray:
        channels: Tensor = self._network(torch.from_numpy(pixels)[None])
        return channels.mean(dim=(2, 3))[0].numpy()

    @cached_property
    def _network(self) -> Any:
        (path,) = self.files
        cls = require_library("mobilenet_v2", "torchvision.models.mobilenetv2", "MobileNetV2")
        with torch.random.fork_rng(devices=[]):  # it starts with random weights
            network = cls().features
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            network.load_state_dict({key[9:]: state[key] for key in state if key.startswith("features.")})
        except Exception as error:  # a file of anything
            found = " ".join(str(error).split())[:120]
            raise DataError(f"{path}: expected a state dict of torchvision's MobileNetV2, found {found}") from None
        return network.float().eval()


def network_input(content: RawItem) -> FloatArray:
    """float32 (3, 224, 224): the shorter side resized to 256, the middle cut out, standardised as in training."""
    return (unit_pixels(_middle(content, open_picture(content, "RGB"))) - MEAN) / STD


def _middle(content: RawItem, image: Image) -> Image:
    from PIL import Image as Pillow

    short, long = sorted(image.size)
    if long > NARROWEST * short:
        found = f"{image.width} x {image.height} pixels"
        raise DataError(f"{content.origin}: expected sides of at most {NARROWEST} to 1, found {found}")
    width, height = (SHORT if side == short else int(SHORT * long / short) for side in image.size)
    left, top = (round((side - CROP) / 2) for side in (width, height))
    resized = image.resize((width, height), Pillow.Resampling.BILINEAR)
    return resized.crop((left, top, left + CROP, top + CROP))
