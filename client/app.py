"""The ClientApp: three handlers, whose replies depend only on the message, the site's data and its stored state."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.deployed import DeployedSite
from client.simulated import SimulatedSite
from client.site import Site
from fedrecon_core.errors import DataError, FedReconError
from fedrecon_core.local.evaluate import EvaluationContext
from fedrecon_core.local.local_round import TrainRequest, train_locally
from fedrecon_core.runtime import keep_freed_memory
from fedrecon_core.state import STRATEGY_GROUPS, write_group
from strategies import messages
from strategies.code_hash import code_hash
from strategies.messages import Identity, SiteInfo, TrainReply

Handler = Callable[[Message, Context], Message]

log = logging.getLogger(__name__)
app = ClientApp()
torch.set_num_threads(1)  # results depend on the number of threads, and many sites share a machine
keep_freed_memory()


def reports_errors(handler: Handler) -> Handler:
    """Reply with an error record if ``handler`` raises a ``FedReconError``. Flower reports all other exceptions."""

    @functools.wraps(handler)
    def answer(message: Message, context: Context) -> Message:
        try:
            return handler(message, context)
        except FedReconError as error:
            log.error("%s: %s", type(error).__name__, error)
            return Message(messages.write_error(error), reply_to=message)

    return answer


@app.query(messages.DESCRIBE)
@reports_errors
def describe(message: Message, context: Context) -> Message:
    """Reply with the site's name, its hashes and a description of its data."""
    site = _site(message, context)
    own = site.own
    if own is not None:
        site.store.require()
    info = SiteInfo.of(site.name, code_hash(site.config.plugins), site.data("train"), own)
    return Message(messages.write_site_info(info), reply_to=message)


@app.train(messages.LOCAL)
@reports_errors
def local(message: Message, context: Context) -> Message:
    """Train for one local round, and reply with the trained groups."""
    started, worked = time.perf_counter(), time.process_time()  # of this message only: a process handles one at a time
    site, global_info = _site(message, context), messages.read_global_info(message.content)
    data = site.data("train", global_info.statistics)
    sent = messages.read_groups(message.content)
    received = {name: state for name, state in sent.items() if not name.startswith(STRATEGY_GROUPS)}
    plan = site.recovery.plan(data.modalities)
    if absent := sorted(set(plan.download) - set(received)):
        reason = "the site's data have changed since its last description; the server will request a new one"
        raise DataError(f"expected {', '.join(absent)} from the server, found none: {reason}")
    request = TrainRequest(
        site=site.name,
        recovery=site.recovery,
        data=data,
        plan=plan,
        received=received,
        global_info=global_info.after_scaling(data.spec),
        store=site.store,
        hook=site.hook,
        strategy_groups={name: state for name, state in sent.items() if name not in received},
    )
    result = train_locally(request, {name: site.modules[name] for name in received})
    seconds, processor = time.perf_counter() - started, time.process_time() - worked
    identity = Identity(code_hash(site.config.plugins), data.spec.digest(), site.data_hash)
    reply = TrainReply.of(result, len(data), seconds, processor, identity)
    return Message(messages.write_train_reply(reply), reply_to=message)


@app.evaluate(messages.SITE)
@reports_errors
def evaluate(message: Message, context: Context) -> Message:
    """Reply with the scores of the received groups on the site's held-out samples. The strategy may override the
    predictions."""
    site, split = _site(message, context), messages.read_split(message.content)
    global_info = messages.read_global_info(message.content)
    data, received = site.data(split, global_info.statistics), messages.read_groups(message.content)
    for name, state in received.items():
        write_group(site.modules[name], state)
    scoring = EvaluationContext(
        recovery=site.recovery,
        groups={name: site.modules[name] for name in received},
        global_info=global_info.after_scaling(data.spec),
        data=data,
        name=f"{split}/{site.name}",
        training=lambda: site.training(global_info.statistics),
    )
    score = site.hook.predictions(scoring).score(data)
    return Message(messages.write_scores({split: score}), reply_to=message)


def _site(message: Message, context: Context) -> Site:
    """The site of the node config or, if it names none, the simulated site that the message is for."""
    kind = DeployedSite if "site" in context.node_config else SimulatedSite
    return kind(context, messages.read_instruction(message.content))
