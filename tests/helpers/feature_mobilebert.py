"""A small MobileBERT with random weights and a few words, in the format of Hugging Face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.helpers.features import use_torchvision

MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY = (*MARKS, "how", "are", "you", "is", "your", "day", "do", "##ing", "fine", "!", "?")
PLACES = 256


def write_model(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write a model of the published class with two layers (its width must be 512); ``changes`` update its config."""
    use_torchvision()  # transformers imports it if it is installed
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
