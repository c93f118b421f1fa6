"""Feature ``mobilebert``: hidden states of MobileBERT for the tokens of a text; needs the extra ``[features]``
(transformers)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

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
        if given is not None:
            folder = Path(given).expanduser()
        else:  # the snapshot in Hugging Face's cache, or the folder where it would be
            hub = require_library("mobilebert", "huggingface_hub")
            config = hub.try_to_load_from_cache(REPOSITORY, CONFIG)
            missing = Path(hub.constants.HF_HUB_CACHE) / f"models--{REPOSITORY.replace('/', '--')}"
            folder = Path(config).parent if isinstance(config, str) else missing
        for names in ((CONFIG,), NETWORK, WORDS):
            path = next((folder / name for name in names if (folder / name).is_file()), None)
            if path is None:
                raise DataError(
                    f"mobilebert: expected {' or '.join(names)} in {folder}, found none; `hf download {REPOSITORY}` "
                    "downloads the model, and weights: FOLDER names another place"
                )
            chosen.append(path)
        return [*chosen, *(folder / name for name in FURTHER if (folder / name).is_file())]

    def extract(self, contents: Sequence[RawItem]) -> list[FloatArray]:
        """float32 [tokens, 512] per text."""
        import torch  # here: `fedrecon data list` imports all features

        tokenizer, network = self._tokenizer_and_network
        tokens, by_length = [], defaultdict(list)
        for position, content in enumerate(contents):
            try:
                text = content.data.decode("utf-8")
            except UnicodeDecodeError as error:
                found = f"byte 0x{error.object[error.start]:02x} at position {error.start}"
                raise DataError(f"{content.origin}: expected text in UTF-8, found {found}") from None
            tokens.append(tokenizer(text, truncation=True, max_length=self.params.longest)["input_ids"])
            by_length[len(tokens[-1])].append(position)
        arrays: dict[int, FloatArray] = {}
        for positions in by_length.values():
            for start in range(0, len(positions), BATCH):
                batch = positions[start : start + BATCH]
                with torch.inference_mode():
                    states = network(input_ids=torch.tensor([tokens[at] for at in batch])).last_hidden_state
                arrays.update(zip(batch, states.numpy(), strict=True))
        return [arrays[position] for position in range(len(contents))]

    @cached_property
    def _tokenizer_and_network(self) -> tuple[Any, Any]:
        import torch

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
        return tokenizer, network.float().eval()


def _misfit(folder: Path, found: str) -> DataError:
    return DataError(f"{folder}: expected MobileBERT in the format of Hugging Face, found {found}")


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
