"""A federation of bowls: f_i(x) = sum a_i (x - b_i)^2 / 2 at site i, for tests of strategies with a known optimum.

Everything but the gradients is the real code: the local round, the sites' state on disk, the messages, the strategy.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from client.site_store import DiskSiteStore
from fedrecon_core.local.local_round import TrainRequest, train_locally
from fedrecon_core.recovery.stage import Objective, Stage
from fedrecon_core.registry import STRATEGIES
from fedrecon_core.state import STRATEGY_GROUPS, State, TransferPlan
from strategies import messages
from strategies.federation import Federation
from strategies.messages import Identity, SiteInfo, TrainReply
from tests.helpers.toy import toy_config, toy_spec

HEAD, SOME = "task.head", "task.extractor.picture"
SIZE, STEPS, LR = 3, 5, 0.1
CURVATURE = np.array([[0.5, 1.0, 3.0], [4.0, 0.3, 1.0], [1.0, 2.0, 0.2], [0.2, 5.0, 2.0], [3.0, 0.5, 0.5]])
LATE = 10**6
"""A round after all others."""
CENTRE = np.array([[1.0, -2.0, 0.5], [-3.0, 1.0, 2.0], [0.0, 4.0, -1.0], [2.0, 2.0, 2.0], [-1.0, -1.0, 3.0]])
NAMES = [f"site-{number:04d}" for number in range(len(CENTRE))]


class Point(nn.Module):
    """A group of one parameter [3], float64."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(SIZE, dtype=torch.float64))


class Bowls(Objective):
    """One item; the sum of a bowl (curvature, centre) in each group's point."""

    items = 1

    def __init__(self, groups: Mapping[str, Any], bowls: Mapping[str, tuple[Any, Any]]) -> None:
        self.groups, self.bowls = groups, bowls

    def loss(self, index: torch.Tensor) -> torch.Tensor:
        terms = [
            (torch.tensor(a) * (self.groups[group].x - torch.tensor(b)).square()).sum() / 2
            for group, (a, b) in self.bowls.items()
        ]
        return torch.stack(terms).sum()

    def counts(self) -> dict[str, int]:
        return dict.fromkeys(self.groups, 1)


@dataclass
class Site:
    """A site with a bowl for each of its groups. It implements all methods of a recovery that the local round calls."""

    config: Any
    bowls: Mapping[str, tuple[Any, Any]]
    folder: Path
    samples: int = 1
    recover_locally: Any = None

    def freeze(self, *_: Any) -> dict[str, Any]:
        return {}

    def stages(self, context: Any) -> list[Stage]:
        groups = {group: module for group, module in context.groups.items() if group in self.bowls}
        return [Stage("task", "task", tuple(groups), (), lambda context: Bowls(groups, self.bowls))]

    def answer(self, message: Any, hook: Any) -> Any:
        """The reply of the real local round, which also stores the site's state."""
        instruction = messages.read_instruction(message.content)
        sent = messages.read_groups(message.content)
        received = {group: state for group, state in sent.items() if not group.startswith(STRATEGY_GROUPS)}
        request = TrainRequest(
            site=messages.addressee(message),
            recovery=self,  # type: ignore[arg-type]
            data=Samples(self.samples),  # type: ignore[arg-type]
            plan=TransferPlan.of(received, received),
            received=received,
            global_info=messages.read_global_info(message.content),
            store=DiskSiteStore(self.folder, instruction.round, instruction.accepted),
            hook=hook,
            strategy_groups={group: state for group, state in sent.items() if group.startswith(STRATEGY_GROUPS)},
        )
        result = train_locally(request, {group: Point() for group in received})
        reply = TrainReply.of(result, self.samples, 0.0, 0.0, Identity("", ""))
        return SimpleNamespace(content=messages.write_train_reply(reply))

    def variate(self, group: str = HEAD) -> np.ndarray:
        """The newest c_i, zero before the first round."""
        return _variate(DiskSiteStore(self.folder, LATE).load("hook"), group)


def _variate(kept: Mapping[str, State], group: str) -> np.ndarray:
    return kept[group]["x"].numpy() if group in kept else np.zeros(SIZE)


class Samples(list):
    """As many samples as it is long, on the CPU."""

    device = torch.device("cpu")

    def __init__(self, count: int) -> None:
        super().__init__(range(count))


@dataclass
class World:
    """A strategy over sites; ``x`` is the global model, ``disk`` the temporary folder of the sites."""

    server: Any
    sites: dict[str, Site]
    x: dict[str, State]
    disk: tempfile.TemporaryDirectory[str]

    def round(self, round_: int, silent: Iterable[str] = (), lost: Iterable[str] = ()) -> list[str]:
        """Configure, train, aggregate; returns the names of the sites that answered. Those that are ``silent`` do
        nothing, the replies of those that are ``lost`` do not arrive."""
        sent = {messages.addressee(m): m for m in self.configure(round_)}
        replies = {name: self.answer(message) for name, message in sent.items() if name not in set(silent)}
        self.aggregate(round_, {name: reply for name, reply in replies.items() if name not in set(lost)})
        return list(replies)

    def aggregate(self, round_: int, replies: Mapping[str, Any]) -> None:
        """Aggregate the accepted replies, as the server does."""
        read = {name: messages.read_train_reply(reply.content) for name, reply in replies.items()}
        self.x, _ = self.server.aggregate(round_, list(read.values()))
        self.server.federation.accept(round_, read, self.server.left_out)

    def configure(self, round_: int) -> list[Any]:
        return self.server.train_messages(round_, self.x)

    def answer(self, message: Any) -> Any:
        hook = self.server.local_half(self.server.params)
        return self.sites[messages.addressee(message)].answer(message, hook)

    def held(self, name: str, group: str = HEAD) -> np.ndarray:
        """The c_i that the site would use in its next round."""
        accepted = self.server.federation.instruction(name, LATE).accepted
        return _variate(DiskSiteStore(self.sites[name].folder, LATE, accepted).load_accepted("hook"), group)

    def model(self, group: str = HEAD) -> np.ndarray:
        return self.x[group]["x"].numpy()

    def variate(self, group: str = HEAD) -> np.ndarray:
        """c, as the server would send it now."""
        self.configure(99)
        [state] = self.server.strategy_groups([group]).values()
        return state["x"].numpy()


def world(strategy: Any = "scaffold", *, momentum: float = 0.0, fraction: float = 1.0, **sections: Any) -> World:
    """A bowl in ``HEAD`` for every site, and one in ``SOME`` for the first two sites."""
    keys = strategy if isinstance(strategy, dict) else {"name": strategy}
    task = {"epochs": STEPS, "lr": LR, "optimizer": "sgd", "momentum": momentum}
    config = toy_config(strategy=keys, local={"task": task}, sites={"count": 5, "fraction": fraction}, **sections)
    sites, infos, plans, disk = {}, {}, {}, tempfile.TemporaryDirectory()
    for number, name in enumerate(NAMES):
        groups = (HEAD, SOME) if number < 2 else (HEAD,)
        bowls = dict.fromkeys(groups, (CURVATURE[number], CENTRE[number]))
        sites[name] = Site(config, bowls, Path(disk.name, name))
        infos[name], plans[name] = SiteInfo(name, "", "", ("picture",), 1, {}), TransferPlan.of(groups, groups)
    nodes = {name: number for number, name in enumerate(NAMES, start=2)}
    federation = Federation(config, toy_spec(), "run", infos, nodes, plans)
    cls: Any = STRATEGIES.get(config.strategy.name)
    return World(cls(federation), sites, {group: {"x": torch.zeros(SIZE).double()} for group in (HEAD, SOME)}, disk)


def train(found: World, rounds: int) -> World:
    for round_ in range(1, rounds + 1):
        found.round(round_)
    return found
