"""Feature ``mobilebert``: hidden states of MobileBERT for the tokens of a text; needs the extra ``[features]``
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
from fedrecon_core.preparation.features.base import FloatArray, RawItem, WeightedFeature, require_library
from fedrecon_core.registry import FEATURES
from fedrecon_core.types import ModalitySpec

WIDTH = 512
REPOSITORY = "google/mobilebert-uncased"
CONFIG = "config.json"
NETWORK = ("model.safetensors", "pytorch_model.bin")
WORDS = ("tokenizer.json", "vocab.txt")
"""One of each pair must exist; the first that does is used."""
FURTHER = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
BATCH = 16
"""Number of texts of equal length per batch."""


class MobileBertParams(Params):
    """``longest``: maximum number of tokens, special tokens included; longer texts are cut. ``weights``: a folder with
    MobileBERT in the format of Hugging Face; default: the one in its cache."""

    name: str = "mobilebert"
    longest: int = Field(default=128, ge=2, le=512)
    weights: str | None = Field(default=None, description="path, relative to where the command is run")


@dataclass(frozen=True)
class _Model:
    tokenizer: Any
    network: Any

    def tokens(self, text: str, longest: int) -> tuple[int, ...]:
        """Return the token ids of a text, special tokens included."""
        return tuple(self.tokenizer(text, truncation=True, max_length=longest)["input_ids"])

    def states(self, tokens: Sequence[tuple[int, ...]]) -> FloatArray:
        """Return the hidden states of texts of equal length T as float32 [texts, T, 512]."""
        states: torch.Tensor = self.network(input_ids=torch.tensor(tokens)).last_hidden_state
        return states.numpy()


@FEATURES.register("mobilebert")
class MobileBert(WeightedFeature):
    """The last hidden state of each token. A batch has only texts with the same number of tokens, so there is no
    padding, and an array depends on the rest of the batch in its last bits at most (larger matrices may be summed in
    another order)."""

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
        """The files of the network and of its tokenizer."""
        given, chosen = self.params.weights, []
        folder = _cached_folder() if given is None else Path(given).expanduser()
        for names in ((CONFIG,), NETWORK, WORDS):
            path = next((folder / name for name in names if (folder / name).is_file()), None)
            if path is None:
                raise DataError(
                    f"mobilebert: expected {' or '.join(names)} in {folder}, found none; `hf download {REPOSITORY}` "
                    "downloads the model, and weights: FOLDER names another place"
                )
            chosen.append(path)
        return [*chosen, *(folder / name for name in FURTHER if (folder / name).is_file())]

    @torch.inference_mode()
    def extract(self, contents: Sequence[RawItem]) -> list[FloatArray]:
        """float32 [tokens, 512] per text."""
        tokens = [self._model.tokens(_text(content), self.params.longest) for content in contents]
        by_length: defaultdict[int, list[int]] = defaultdict(list)
        for place, ids in enumerate(tokens):
            by_length[len(ids)].append(place)
        arrays: dict[int, FloatArray] = {}
        for places in by_length.values():
            for start in range(0, len(places), BATCH):
                batch = places[start : start + BATCH]
                arrays.update(zip(batch, self._model.states([tokens[place] for place in batch]), strict=True))
        return [arrays[place] for place in range(len(contents))]

    @cached_property
    def _model(self) -> _Model:
        folder = self.files[0].parent
        classes = ("AutoTokenizer", "MobileBertModel")
        tokenizers, networks = (require_library("mobilebert", "transformers", name) for name in classes)
        try:
            with _silent_transformers(), torch.random.fork_rng(devices=[]):
                tokenizer = tokenizers.from_pretrained(folder, local_files_only=True)
                network, loading = networks.from_pretrained(
                    folder, local_files_only=True, add_pooling_layer=False, output_loading_info=True
                )
        except Exception as error:  # the folder may contain anything
            raise _misfit(folder, " ".join(str(error).split())[:160]) from None
        config, missing = network.config, sorted(loading["missing_keys"])
        if missing:  # transformers would fill them with random numbers
            raise _misfit(folder, f"no weights {missing[0]} (and {len(missing) - 1} more) in {' or '.join(NETWORK)}")
        if config.hidden_size != WIDTH:
            raise _misfit(folder, f"hidden states of {config.hidden_size} numbers, not {WIDTH}")
        if len(tokenizer) > config.vocab_size:
            raise _misfit(folder, f"a vocabulary of {len(tokenizer)} words for a network with {config.vocab_size}")
        if self.params.longest > config.max_position_embeddings:
            limit, found = config.max_position_embeddings, self.params.longest
            raise DataError(f"mobilebert: longest: expected at most {limit}, the limit of the weights, found {found}")
        return _Model(tokenizer, network.float().eval())


def _cached_folder() -> Path:
    """The snapshot of the model in Hugging Face's cache, or the folder where it would be."""
    hub = require_library("mobilebert", "huggingface_hub")
    found = hub.try_to_load_from_cache(REPOSITORY, CONFIG)
    if isinstance(found, str):
        return Path(found).parent
    return Path(hub.constants.HF_HUB_CACHE) / f"models--{REPOSITORY.replace('/', '--')}"


def _misfit(folder: Path, found: str) -> DataError:
    return DataError(f"{folder}: expected MobileBERT in the format of Hugging Face, found {found}")


def _text(content: RawItem) -> str:
    try:
        return content.data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x} at position {error.start}"
        raise DataError(f"{content.origin}: expected text in UTF-8, found {found}") from None


@contextmanager
def _silent_transformers() -> Iterator[None]:
    """Suppress the progress bars of transformers and its warnings about unused parts of a checkpoint."""
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
