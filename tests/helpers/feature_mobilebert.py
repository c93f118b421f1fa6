"""A small MobileBERT with random weights and few words, stored as Hugging Face stores the real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.helpers.vision import use_torchvision

MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY = (*MARKS, "how", "are", "you", "is", "your", "day", "do", "##ing", "fine", "!", "?")
PLACES = 256


def write_model(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Two layers of the real class, whose width is 512 as it must be; ``changes`` of its configuration. The weights
    are those of the class that the published ones are of."""
    use_torchvision()  # transformers imports it where it is installed
    from transformers import MobileBertConfig, MobileBertForPreTraining

    keys = {"vocab_size": len(VOCABULARY), "num_hidden_layers": 2, "max_position_embeddings": PLACES, **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        MobileBertForPreTraining(MobileBertConfig(**keys)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return folder


def keys(base: Path) -> dict[str, Any]:
    """The feature's keys, with a model below ``base``."""
    return {"longest": 16, "weights": str(write_model(base / "mobilebert"))}
