"""Engine ``inprocess``: run the ServerApp in this process, and the sites in it or in a few worker processes.

The engine is a Flower ``Grid`` that calls the ClientApp directly: no SuperLink, no Ray, no start-up time. Apps get the
same messages, contexts and error replies as from the other engines.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, Metadata, RecordDict
from flwr.serverapp import Grid

# Flower fills a new message's run, node and task from here and offers no public way to set them.
from flwr.supercore.task_identity import TaskIdentity

from fedrecon_core.config import RunConfig
from fedrecon_core.errors import FedReconError, RunError
from fedrecon_core.registry import DATASETS, PARTITIONS
from server.engines import fork_server
from server.engines.base import ENGINES, Engine, Job
from server.engines.pool import Here, Pool, Runner, load
from server.runs.setup import share_setup

log = logging.getLogger(__name__)

RUN_ID = 1
SERVER_NODE = 1  # the number that Flower gives the SuperLink; sites follow
POLL_SECONDS = 0.5


@ENGINES.register("inprocess")
class InProcess(Engine):
    """Runs the sites one after another (``workers: 1``) or in ``workers`` processes, with the same results."""

    shows_progress = True

    @classmethod
    def prepare(cls, config: RunConfig) -> None:
        """Start the fork server of the workers with the imports that a site needs."""
        if config.engine.workers > 1:
            data, partition = DATASETS.get(config.data.name), PARTITIONS.get(config.data.partition.name)
            fork_server.ensure_running(["client.app", *data.late_imports, *partition.late_imports])

    def run(self, job: Job) -> None:
        """Execute ``job``; see ``Engine.run``. PyTorch stays at one thread in this process afterwards.

        With ``workers`` above 1 the calling script must be importable (``if __name__ == "__main__"``), since workers
        import it.
        """
        torch.set_num_threads(1)  # results depend on the number of threads
        apps = []
        for name in job.components:
            try:
                apps.append(load(name))
            except (ImportError, AttributeError) as error:
                raise RunError(f"cannot load the app '{name}': {error}") from error
        server_app, client_app = apps
        runner = Here(client_app) if job.workers == 1 else Pool(job.components[1], min(job.workers, job.sites))
        with share_setup(job.setup), contextlib.closing(InProcessGrid(job, runner)) as grid:
            try:
                server_app(grid, _context(SERVER_NODE, {}, job))
            except FedReconError:
                raise
            except Exception as error:
                log.error("the ServerApp raised", exc_info=error)
                raise RunError(f"the server failed: {type(error).__name__}: {' '.join(str(error).split())}") from error


def _context(node: int, node_config: dict[str, Any], job: Job) -> Context:
    return Context(RUN_ID, node, node_config, RecordDict(), job.run_config())


class InProcessGrid(Grid):
    """A ``Grid`` whose nodes are function calls. Node ids and message ids are the same in every run."""

    def __init__(self, job: Job, runner: Runner) -> None:
        """Create ``job.sites`` nodes, whose messages ``runner`` answers."""
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, SERVER_NODE, RUN_ID
        self._contexts = {
            SERVER_NODE + 1 + i: _context(SERVER_NODE + 1 + i, {"partition-id": i, "num-partitions": job.sites}, job)
            for i in range(job.sites)
        }
        self._runner = runner
        self._timeout = job.timeout
        self._run: Any = None
        self._sent = 0
        self._queue: deque[Message] = deque()
        self._running: dict[str, int] = {}  # message id -> node
        self._replies: dict[str, Message] = {}

    def close(self) -> None:
        """Drop queued messages and end those that are running."""
        self._queue.clear()
        self._runner.close()

    def set_run(self, run: Any) -> None:
        """Store Flower's description of the run, which this grid does not use."""
        self._run = run

    @property
    def run(self) -> Any:
        """The value that ``set_run`` stored."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message from the server to the node ``dst_node_id``."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """The nodes, in the order of their partitions."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Queue ``messages`` and return their ids; ``ValueError`` for a node that does not exist."""
        pushed = [self._stamp(message, _copy(message.content)) for message in messages]
        for message in pushed:
            if message.metadata.dst_node_id not in self._contexts:
                raise ValueError(f"there is no node {message.metadata.dst_node_id}")
        self._queue.extend(pushed)
        return [message.metadata.message_id for message in pushed]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to ``message_ids`` that have arrived.

        If none has, this runs one queued message (with one process) or waits for a short time (with several), so that a
        caller can poll without a pause of its own. Every message gets a reply, an error reply if the site took longer
        than the job's ``timeout``. The time is counted from the moment when a process receives the message: time in the
        queue does not count, so that the number of workers has no influence. With one process nothing is interrupted.
        """
        return self._pull(list(message_ids), self._timeout)

    def forget(self, message_ids: Iterable[str]) -> None:
        """Drop ``message_ids``, for which the caller no longer waits, with their replies.

        Queued messages are not run any more; a message that is running is ended if it runs in a worker process.
        """
        dropped = set(message_ids)
        self._queue = deque(message for message in self._queue if message.metadata.message_id not in dropped)
        self._runner.abandon(dropped)
        for key in dropped:
            self._running.pop(key, None)
            self._replies.pop(key, None)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send ``messages`` and return their replies in the order of their arrival.

        ``timeout`` replaces the job's; ``pull_messages`` explains how it is counted.
        """
        missing = dict.fromkeys(self.push_messages(messages))
        replies: list[Message] = []
        while missing:
            arrived = self._pull(list(missing), self._timeout if timeout is None else timeout)
            replies += arrived
            for reply in arrived:
                del missing[reply.metadata.reply_to_message_id]
        return replies

    def _pull(self, wanted: list[str], timeout: float | None) -> list[Message]:
        if not any(key in self._replies for key in wanted):
            self._advance(timeout)
        return [self._replies.pop(key) for key in wanted if key in self._replies]

    def _advance(self, timeout: float | None) -> None:
        """Start queued messages, then store the replies and states of messages that were answered or are late."""
        for message in list(self._queue):
            if len(self._running) >= self._runner.capacity:
                break
            node = message.metadata.dst_node_id
            if node in self._running.values():
                continue  # a node answers its messages in order: the next one needs the state that this one leaves
            self._queue.remove(message)
            self._running[message.metadata.message_id] = node
            kept = self._contexts[node]  # the site gets a copy, so that its changes are dropped if it fails
            context = Context(RUN_ID, node, dict(kept.node_config), _copy(kept.state), dict(kept.run_config))
            self._runner.start(message, context)
        answers = self._runner.finished(POLL_SECONDS)
        if timeout is not None:
            answers += self._runner.late(timeout)
        for answer in answers:
            sent = answer.message.metadata
            node = self._running.pop(sent.message_id)
            if answer.failure:
                site = self._contexts[node].node_config["partition-id"]
                log.error("partition %s failed at '%s': %s", site, sent.message_type, answer.failure)
            if answer.state is not None:
                self._contexts[node].state = answer.state
            content = answer.reply.content if answer.reply.has_content() else None
            self._replies[sent.message_id] = self._stamp(answer.reply, content)

    def _stamp(self, message: Message, content: RecordDict | None) -> Message:
        """A copy of ``message`` with a new id, as a SuperLink assigns, and with ``content`` (``None``: its error)."""
        self._sent += 1
        old = message.metadata
        metadata = Metadata(
            run_id=RUN_ID,
            message_id=f"message-{self._sent:08d}",
            src_node_id=old.src_node_id,
            dst_node_id=old.dst_node_id,
            reply_to_message_id=old.reply_to_message_id,
            group_id=old.group_id,
            created_at=old.created_at or time.time(),
            ttl=old.ttl,
            message_type=old.message_type,
            src_task_id=old.src_task_id,
            dst_task_id=old.dst_task_id,
        )
        body: Any = {"error": message.error} if content is None else {"content": content}
        stamped: Message = Message(**body, metadata=metadata)  # type: ignore[call-overload]
        return stamped


def _copy(content: RecordDict) -> RecordDict:
    """Copy the containers, but not the arrays: records that the receiver adds or removes must not affect the sender."""
    records: dict[str, Any] = dict(content)
    for name, record in records.items():
        records[name] = type(record)(OrderedDict(record) if isinstance(record, ArrayRecord) else dict(record))
    return RecordDict(records)
