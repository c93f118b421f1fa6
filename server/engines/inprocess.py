"""Engine ``inprocess``: the ServerApp and every site in this process, or the sites in a few processes beside it.

It is a Flower ``Grid`` that calls the ClientApp directly: no SuperLink, no Ray, no start-up time. Messages, contexts
and error replies are the ones that the other engines give, so the apps cannot tell the difference.
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
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

# Flower fills a new message's run, node and task from here and offers no public way to set them.
from flwr.supercore.task_identity import TaskIdentity

from fedrecon_core.errors import FedReconError, RunError
from server.engines.base import ENGINES, Engine, Job
from server.engines.pool import Answer, Here, Pool, Runner, load
from server.runs.setup import share_setup

log = logging.getLogger(__name__)

RUN_ID = 1
SERVER_NODE = 1  # the number that Flower gives the SuperLink; sites follow
POLL_SECONDS = 0.5


@ENGINES.register("inprocess")
class InProcess(Engine):
    """Runs the sites one after another (``workers: 1``) or in ``workers`` processes, with the same results."""

    shows_progress = True

    def run(self, job: Job) -> None:
        """Execute ``job``; see ``Engine.run``. PyTorch stays at one thread in this process afterwards.

        With ``workers`` above 1 the calling script must be importable (``if __name__ == "__main__"``), as for every use
        of processes that are spawned.
        """
        torch.set_num_threads(1)  # results depend on the number of threads
        server_app, client_app = (_load_app(name) for name in job.components)
        with share_setup(job.setup), contextlib.closing(InProcessGrid(job, _runner(job, client_app))) as grid:
            _serve(server_app, grid, job)


def _load_app(name: str) -> Any:
    try:
        return load(name)
    except (ImportError, AttributeError) as error:
        raise RunError(f"cannot load the app '{name}': {error}") from error


def _runner(job: Job, client_app: ClientApp) -> Runner:
    return Here(client_app) if job.workers == 1 else Pool(job.components[1], min(job.workers, job.sites))


def _serve(server_app: ServerApp, grid: Grid, job: Job) -> None:
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
        """``job.sites`` nodes, whose messages ``runner`` answers."""
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
        """End what still runs."""
        self._queue.clear()
        self._runner.close()

    def set_run(self, run: Any) -> None:
        """Keep Flower's description of the run; nothing here needs it."""
        self._run = run

    @property
    def run(self) -> Any:
        """What ``set_run`` was given."""
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
        """The replies to ``message_ids`` that are there.

        If there is none yet, one queued message is run (one process) or a short time is waited (several), so that a
        caller can ask again and again without a pause and show its progress in between. Every message gets a reply:
        an error from a site that took longer than the job's ``timeout``, counted from the moment when a process takes
        the message. Waiting for its turn makes no site late, so the number of workers does not decide who is. With one
        process nothing is interrupted.
        """
        return self._pull(list(message_ids), self._timeout)

    def forget(self, message_ids: Iterable[str]) -> None:
        """Drop ``message_ids``: a caller that stops waiting leaves neither work nor replies behind for its next ones.

        What waits for its turn never runs; what runs is ended, where it has a process of its own.
        """
        gone = set(message_ids)
        self._queue = deque(message for message in self._queue if message.metadata.message_id not in gone)
        self._runner.abandon(gone)
        for key in gone:
            self._running.pop(key, None)
            self._replies.pop(key, None)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send ``messages`` and return their replies in the order of their arrival.

        ``timeout`` takes the place of the job's, in the sense that ``pull_messages`` explains.
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
        """Hand out queued messages, then take in what has been answered and what is late."""
        for message in list(self._queue):
            if len(self._running) >= self._runner.capacity:
                break
            node = message.metadata.dst_node_id
            if node in self._running.values():
                continue  # a node answers its messages in order: the next one needs the state that this one leaves
            self._queue.remove(message)
            self._running[message.metadata.message_id] = node
            self._runner.start(message, self._copy_context(node))
        self._settle(self._runner.finished(POLL_SECONDS))
        if timeout is not None:
            self._settle(self._runner.late(timeout))

    def _copy_context(self, node: int) -> Context:
        """The node's context; what a failing site does to it is forgotten, as where contexts travel."""
        kept = self._contexts[node]
        return Context(RUN_ID, node, dict(kept.node_config), _copy(kept.state), dict(kept.run_config))

    def _settle(self, answers: list[Answer]) -> None:
        """Keep replies and states."""
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
        """``message`` with an id, as the SuperLink gives it one, and with ``content`` (``None``: an error)."""
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
    """The same records in containers of their own: what the receiver adds or drops stays with it, as over a network."""
    return RecordDict({name: _copy_record(record) for name, record in content.items()})


def _copy_record(record: Any) -> Any:
    return type(record)(OrderedDict(record) if isinstance(record, ArrayRecord) else dict(record))
