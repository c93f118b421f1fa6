"""Feature ``mobilebert``: a text's tokens as MobileBERT understands them; needs the extra ``[features]``
(transformers)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from fedrecon_core.config import Params
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.features.base import FloatArray, RawItem
from fedrecon_core.preparation.features.extra import require_library
from fedrecon_core.preparation.features.weights import WeightedFeature
from fedrecon_core.registry import FEATURES
from fedrecon_core.types import ModalitySpec

WIDTH = 512
REPOSITORY = "google/mobilebert-uncased"
CONFIG = "config.json"
NETWORK = ("model.safetensors", "pytorch_model.bin")
WORDS = ("tokenizer.json", "vocab.txt")
"""Of these the first that is there is read first; one of each pair must be there."""
FURTHER = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
BATCH = 16
"""Texts of one length that pass together."""


class MobileBertParams(Params):
    """``longest``: tokens that are kept of a text, its first and last mark included. ``weights``: a folder with
    MobileBERT as Hugging Face stores it; by default the one in its cache."""

    name: str = "mobilebert"
    longest: int = Field(default=128, ge=2, le=512)
    weights: str | None = Field(default=None, description="path, relative to where the command is run")


@dataclass(frozen=True)
class _Model:
    tokenizer: Any
    network: Any

    def tokens(self, text: str, longest: int) -> tuple[int, ...]:
        """The numbers of a text's tokens, marks included; of an empty text the two marks."""
        return tuple(self.tokenizer(text, truncation=True, max_length=longest)["input_ids"])

    def states(self, tokens: Sequence[tuple[int, ...]]) -> FloatArray:
        """Texts of one length T -> float32 [texts, T, 512]."""
        states: torch.Tensor = self.network(input_ids=torch.tensor(tokens)).last_hidden_state
        return states.numpy()


@FEATURES.register("mobilebert")
class MobileBert(WeightedFeature):
    """The last hidden state of each token. Only texts of as many tokens pass together, so that there is no padding: an
    array depends on its neighbours in its last bits at most: larger matrices may be summed in another order."""

    Params = MobileBertParams
    medium: ClassVar[Literal["text"]] = "text"
    costly: ClassVar[bool] = True
    libraries: ClassVar[Mapping[str, str]] = {"transformers": "transformers"}
    params: MobileBertParams

    @property
    def ragged(self) -> bool:
        """Texts differ in length."""
        return True

    def modality(self, name: str) -> ModalitySpec:
        """A sequence of tokens."""
        return ModalitySpec(name=name, kind="sequence", shape=(self.params.longest, WIDTH), scale="standard")

    def locate(self) -> Sequence[Path]:
        """The files of the network and of its words."""
        given = self.params.weights
        folder = _cached_folder() if given is None else Path(given).expanduser()
        chosen = [next((folder / name for name in names if (folder / name).is_file()), None) for names in _NEEDED]
        for names, path in zip(_NEEDED, chosen, strict=True):
            if path is None:
                raise _absent(folder, names)
        further = [folder / name for name in FURTHER if (folder / name).is_file()]
        return [*(path for path in chosen if path is not None), *further]

    @torch.inference_mode()
    def extract(self, contents: Sequence[RawItem]) -> list[FloatArray]:
        """float32 [tokens, 512] per text."""
        texts = [_text(content) for content in contents]
        tokens = [self._model.tokens(text, self.params.longest) for text in texts]
        arrays: dict[int, FloatArray] = {}
        for places in _of_one_length(tokens):
            states = self._model.states([tokens[place] for place in places])
            arrays.update(zip(places, states, strict=True))
        return [arrays[place] for place in range(len(contents))]

    @cached_property
    def _model(self) -> _Model:
        folder = self.files[0].parent
        tokenizers, networks = (require_library("mobilebert", "transformers", name) for name in _CLASSES)
        try:
            with _silence(), torch.random.fork_rng(devices=[]):
                tokenizer = tokenizers.from_pretrained(folder, local_files_only=True)
                network, told = networks.from_pretrained(
                    folder, local_files_only=True, add_pooling_layer=False, output_loading_info=True
                )
        except Exception as error:  # a folder of anything
            raise _misfit(folder, " ".join(str(error).split())[:160]) from None
        _refuse_other(folder, network.config, sorted(told["missing_keys"]), len(tokenizer), self.params.longest)
        return _Model(tokenizer, network.float().eval())


_CLASSES = ("AutoTokenizer", "MobileBertModel")
_NEEDED = ((CONFIG,), NETWORK, WORDS)


def _cached_folder() -> Path:
    """The version of the model that Hugging Face's cache holds, or the folder where it would be."""
    hub = require_library("mobilebert", "huggingface_hub")
    found = hub.try_to_load_from_cache(REPOSITORY, CONFIG)
    if isinstance(found, str):
        return Path(found).parent
    return Path(hub.constants.HF_HUB_CACHE) / f"models--{REPOSITORY.replace('/', '--')}"


def _absent(folder: Path, names: Sequence[str]) -> DataError:
    told = f"`hf download {REPOSITORY}` fetches the model, and weights: FOLDER names another place"
    return DataError(f"mobilebert: expected {' or '.join(names)} in {folder}, found none; {told}")


def _misfit(folder: Path, found: str) -> DataError:
    return DataError(f"{folder}: expected MobileBERT as Hugging Face stores it, found {found}")


def _refuse_other(folder: Path, config: Any, lacking: Sequence[str], words: int, longest: int) -> None:
    """What is read without a fault but is not the whole model: transformers fills the gaps with random numbers."""
    if lacking:
        raise _misfit(folder, f"no weights {lacking[0]} (and {len(lacking) - 1} more) in {' or '.join(NETWORK)}")
    if config.hidden_size != WIDTH:
        raise _misfit(folder, f"hidden states of {config.hidden_size} numbers, not {WIDTH}")
    if words > config.vocab_size:
        raise _misfit(folder, f"{words} words for a network that knows {config.vocab_size}")
    if longest > config.max_position_embeddings:
        places = config.max_position_embeddings
        raise DataError(f"mobilebert: longest: expected at most {places}, which the weights allow, found {longest}")


def _text(content: RawItem) -> str:
    try:
        return content.data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x} at position {error.start}"
        raise DataError(f"{content.origin}: expected text in UTF-8, found {found}") from None


def _of_one_length(tokens: Sequence[tuple[int, ...]]) -> Iterator[list[int]]:
    """Places of texts with as many tokens, up to BATCH at a time."""
    places: defaultdict[int, list[int]] = defaultdict(list)
    for place, one in enumerate(tokens):
        places[len(one)].append(place)
    for alike in places.values():
        yield from (alike[start : start + BATCH] for start in range(0, len(alike), BATCH))


@contextmanager
def _silence() -> Iterator[None]:
    """Without transformers' bars and its words about the parts of a checkpoint that nobody uses."""
    logging = require_library("mobilebert", "transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
