"""The ClientApp: three messages, each answered from the message and the site's own data alone."""

from __future__ import annotations

import time
from typing import Any

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.site import config_of, data_of, is_simulated, modules_of, name_of, recovery_of, shelf_of
from fedrecon_core.data.site import SiteData
from fedrecon_core.data.statistics import site_sums
from fedrecon_core.errors import DataError
from fedrecon_core.local.evaluate import predict
from fedrecon_core.local.loop import LocalJob, train_locally
from fedrecon_core.recovery.stage import Knowledge
from fedrecon_core.registry import STRATEGIES
from fedrecon_core.state import write_group
from strategies import messages
from strategies.code_hash import code_hash
from strategies.messages import Order, SiteInfo

app = ClientApp()
torch.set_num_threads(1)  # results depend on the number of threads, and many sites share a machine


@app.query(messages.DESCRIBE)
def describe(message: Message, context: Context) -> Message:
    """Who this site is and what it holds."""
    if not is_simulated(context):
        raise DataError(
            f"site {context.node_config['site']} brings its own data, and this version runs simulated sites only; "
            "start the node without site= in its node config"
        )
    order = messages.read_order(message.content)
    data = data_of(name_of(context, order), order)
    info = SiteInfo(
        name=name_of(context, order),
        code_hash=code_hash(),
        spec_hash=data.spec.digest(),
        modalities=data.modalities,
        samples=len(data),
        sums=site_sums(data),
    )
    return Message(messages.write_site(info), reply_to=message)


@app.train(messages.LOCAL)
def local(message: Message, context: Context) -> Message:
    """One local round: all stages, then the trained groups."""
    started = time.perf_counter()
    order = messages.read_order(message.content)
    config, recovery = config_of(order.config), recovery_of(order.config)
    data, knowledge = _prepared(order, messages.read_knowledge(message.content), context)
    received = {name: messages.unpack_group(record) for name, record in messages.read_groups(message.content).items()}
    strategy: Any = STRATEGIES.get(config.strategy.name)
    job = LocalJob(
        site=name_of(context, order),
        recovery=recovery,
        data=data,
        plan=recovery.plan(data.modalities),
        received=received,
        knowledge=knowledge,
        shelf=shelf_of(context, order),
        hook=strategy.local_half(config.strategy),
    )
    modules = modules_of(order.config)
    result = train_locally(job, {name: modules[name] for name in received})
    content = messages.write_result(result, len(data), time.perf_counter() - started)
    return Message(content, reply_to=message)


@app.evaluate(messages.SITE)
def evaluate(message: Message, context: Context) -> Message:
    """Score the received groups on this site's held-out samples, which a simulated site is sent as its share."""
    order = messages.read_order(message.content)
    recovery, modules = recovery_of(order.config), modules_of(order.config)
    data, knowledge = _prepared(order, messages.read_knowledge(message.content), context)
    received = messages.read_groups(message.content)
    for name, record in received.items():
        write_group(modules[name], messages.unpack_group(record))
    groups = {name: modules[name] for name in received}
    split = messages.read_split(message.content)
    score = predict(recovery, groups, knowledge, data, f"{split}/{name_of(context, order)}").score(data)
    return Message(messages.write_scores({split: score}), reply_to=message)


def _prepared(order: Order, knowledge: Knowledge, context: Context) -> tuple[SiteData, Knowledge]:
    """Scaled data, and the statistics as the models see them."""
    data = data_of(name_of(context, order), order, knowledge.statistics)
    return data, knowledge.after_scaling(data.spec)
