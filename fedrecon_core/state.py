"""Parameter groups, the unit that is sent, trained, frozen and aggregated; and transfer plans."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Groups = dict[str, nn.Module]
"""Group name -> the module that holds its parameters."""
State = dict[str, Tensor]
"""Tensor name -> tensor: the state dict of one group."""


def encoder_group(modality: str) -> str:
    """The group of the generator's encoder of ``modality``."""
    return f"generator.{modality}.encoder"


def decoder_group(modality: str) -> str:
    """The group of the generator's decoder of ``modality``."""
    return f"generator.{modality}.decoder"


def mapping_group(source: str, target: str) -> str:
    """The group of the mapping model T[source->target]."""
    return f"mapping.{source}->{target}"


EXTRACTORS = "task.extractor."


def extractor_group(modality: str) -> str:
    """The group of the task model's feature extractor of ``modality``."""
    return f"{EXTRACTORS}{modality}"


HEAD_GROUP = "task.head"
"""Fusion and classifier of the task model."""

STRATEGY_GROUPS = "strategy."
"""Prefix of the names of all groups that a strategy sends in addition to the model's."""


def strategy_group(strategy: str, group: str) -> str:
    """The strategy's own group that belongs to the model's ``group``, for example its control variate."""
    return f"{STRATEGY_GROUPS}{strategy}.{group}"


def model_group(group: str) -> str:
    """The model's group that a strategy's own ``group`` belongs to; inverse of ``strategy_group``."""
    return group.removeprefix(STRATEGY_GROUPS).partition(".")[2]


@dataclass(frozen=True)
class TransferPlan:
    """Which groups a site downloads, and which of them it may upload; both sorted, ``upload`` within ``download``."""

    download: tuple[str, ...]
    upload: tuple[str, ...]

    @classmethod
    def of(cls, download: Iterable[str], upload: Iterable[str]) -> TransferPlan:
        """Sort both and drop repeats. Raises ``ValueError`` if a group is uploaded without being downloaded."""
        down, up = sorted(set(download)), sorted(set(upload))
        missing = sorted(set(up) - set(down))
        if missing:
            raise ValueError(f"a site cannot upload groups that it does not download: {', '.join(missing)}")
        return cls(tuple(down), tuple(up))


def read_group(module: nn.Module) -> State:
    """A detached, contiguous CPU copy of the module's parameters and buffers."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}


def write_group(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load ``state`` into ``module``; a missing, unknown or misshapen tensor raises ``RuntimeError`` with its name."""
    module.load_state_dict(dict(state), strict=True)


def flatten_groups(groups: Mapping[str, Mapping[str, Tensor]]) -> State:
    """All groups as one dict with keys ``group/tensor``: the form in which they are saved."""
    return {f"{group}/{name}": t.contiguous() for group, state in groups.items() for name, t in state.items()}


def unflatten_groups(tensors: Mapping[str, Tensor]) -> dict[str, State]:
    """The groups of a flat dict; inverse of ``flatten_groups``."""
    groups: dict[str, State] = {}
    for key, tensor in tensors.items():
        group, name = key.rsplit("/", 1)
        groups.setdefault(group, {})[name] = tensor
    return groups


def group_bytes(state: Mapping[str, Tensor]) -> int:
    """Tensor bytes of a group: what ``bytes_down`` and ``bytes_up`` count."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def parameters_sha256(groups: Mapping[str, Mapping[str, Tensor]]) -> str:
    """SHA-256 over all groups, groups and tensors sorted by name, contiguous bytes in their own dtype."""
    digest = hashlib.sha256()
    for group in sorted(groups):
        for name in sorted(groups[group]):
            digest.update(tensor_bytes(groups[group][name]))
    return digest.hexdigest()


def tensor_bytes(tensor: Tensor) -> bytes:
    """The contiguous bytes of ``tensor`` in its own dtype."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return bytes(flat.view(torch.uint8).numpy().tobytes()) if flat.numel() else b""
