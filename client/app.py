"""The ClientApp: three messages, each answered from the message and the site's own data alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.deployed import DeployedSite
from client.simulated import SimulatedSite
from client.site import Site
from fedrecon_core.data.site_data import SiteData
from fedrecon_core.errors import DataError
from fedrecon_core.local.evaluate import EvaluationContext
from fedrecon_core.local.hook import LocalHook
from fedrecon_core.local.local_round import TrainRequest, train_locally
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.registry import STRATEGIES
from fedrecon_core.runtime import keep_freed_memory
from fedrecon_core.state import STRATEGY_GROUPS, TransferPlan, write_group
from strategies import messages
from strategies.code_hash import code_hash
from strategies.description import description
from strategies.messages import Identity

app = ClientApp()
torch.set_num_threads(1)  # results depend on the number of threads, and many sites share a machine
keep_freed_memory()


@app.query(messages.DESCRIBE)
def describe(message: Message, context: Context) -> Message:
    """Who this site is and what it holds."""
    site = _site(message, context)
    own = site.own
    if own is not None:
        site.store.require()
    info = description(site.name, code_hash(), site.data("train"), own)
    return Message(messages.write_site(info), reply_to=message)


@app.train(messages.LOCAL)
def local(message: Message, context: Context) -> Message:
    """One local round: all stages, then the trained groups."""
    started, worked = time.perf_counter(), time.process_time()  # a process answers one message at a time
    site = _site(message, context)
    data, global_info = _prepared(site, "train", messages.read_knowledge(message.content))
    sent = {name: messages.unpack_group(record) for name, record in messages.read_groups(message.content).items()}
    received = {name: state for name, state in sent.items() if not name.startswith(STRATEGY_GROUPS)}
    plan = site.recovery.plan(data.modalities)
    _agree(plan, received)
    request = TrainRequest(
        site=site.name,
        recovery=site.recovery,
        data=data,
        plan=plan,
        received=received,
        global_info=global_info,
        store=site.store,
        hook=_local_half(site),
        strategy_groups={name: state for name, state in sent.items() if name not in received},
    )
    result = train_locally(request, {name: site.modules[name] for name in received})
    seconds, processor = time.perf_counter() - started, time.process_time() - worked
    content = messages.write_result(result, len(data), seconds, processor)
    messages.write_identity(content, Identity(code_hash(), data.spec.digest(), site.data_hash))
    return Message(content, reply_to=message)


@app.evaluate(messages.SITE)
def evaluate(message: Message, context: Context) -> Message:
    """Score the received groups on this site's held-out samples, as the strategy's local half predicts with them."""
    site, split = _site(message, context), messages.read_split(message.content)
    told = messages.read_knowledge(message.content)
    data, global_info = _prepared(site, split, told)
    received = messages.read_groups(message.content)
    for name, record in received.items():
        write_group(site.modules[name], messages.unpack_group(record))
    groups = {name: site.modules[name] for name in received}
    scoring = EvaluationContext(
        recovery=site.recovery,
        groups=groups,
        global_info=global_info,
        data=data,
        name=f"{split}/{site.name}",
        training=lambda: site.training(told.statistics),
    )
    score = _local_half(site).predictions(scoring).score(data)
    return Message(messages.write_scores({split: score}), reply_to=message)


def _local_half(site: Site) -> LocalHook:
    """What the strategy adds at this site, made anew for each message."""
    strategy: Any = STRATEGIES.get(site.config.strategy.name)
    hook: LocalHook = strategy.local_half(site.config.strategy)
    return hook


def _agree(plan: TransferPlan, received: Mapping[str, object]) -> None:
    """The server planned with what this site said it holds; a folder that was changed since asks for other groups."""
    absent = sorted(set(plan.download) - set(received))
    if absent:
        told = "the site's data have changed since it said what it holds; it will be asked again"
        raise DataError(f"expected {', '.join(absent)} from the server, found none: {told}")


def _site(message: Message, context: Context) -> Site:
    """The node's own site, or, where its node config names none, the simulated one that the message names."""
    kind = DeployedSite if "site" in context.node_config else SimulatedSite
    return kind(context, messages.read_instruction(message.content))


def _prepared(site: Site, split: str, global_info: GlobalInfo) -> tuple[SiteData, GlobalInfo]:
    """Scaled data, and the statistics as the models see them."""
    data = site.data(split, global_info.statistics)
    return data, global_info.after_scaling(data.spec)
