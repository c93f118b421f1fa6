"""A small ServerApp and ClientApp for the tests of the engines, steered by a JSON file in place of a config."""

import contextlib
import json
import os
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

client = ClientApp()
server = ServerApp()


@client.query("count")
def count(message: Message, context: Context) -> Message:
    """Count this node's messages in its state; reply with the count, the process and the partition."""
    seen = context.state.config_records.get("seen", ConfigRecord({"n": 0}))
    context.state["seen"] = ConfigRecord({"n": int(seen["n"]) + 1})
    who = {"partition": context.node_config["partition-id"], "of": context.node_config["num-partitions"]}
    metrics = MetricRecord({"n": int(context.state["seen"]["n"]), "pid": os.getpid(), **who})
    return Message(RecordDict({"count": metrics, **imported()}), reply_to=message)


def imported() -> dict[str, ConfigRecord]:
    """Hash and path of the code of this process."""
    import strategies
    from strategies.code_hash import code_hash

    with contextlib.suppress(ModuleNotFoundError):
        import client  # noqa: F401
    return {"code": ConfigRecord({"hash": code_hash(), "file": str(strategies.__file__)})}


@client.train("raise")
def fail(message: Message, context: Context) -> Message:
    """Change the state, then raise."""
    context.state["seen"] = ConfigRecord({"n": 1000})
    raise ValueError("no data here")


@client.train("exit")
def end(message: Message, context: Context) -> Message:
    """Raise SystemExit, as a script would."""
    raise SystemExit(4)


@client.train("die")
def die(message: Message, context: Context) -> Message:
    """End the process at once on partition 0."""
    if context.node_config["partition-id"] == 0:
        os._exit(7)
    return Message(RecordDict(), reply_to=message)


@client.train("sleep")
def sleep(message: Message, context: Context) -> Message:
    """Sleep for a minute on partition 0."""
    if context.node_config["partition-id"] == 0:
        time.sleep(60)
    return Message(RecordDict(), reply_to=message)


@client.train("nothing")
def nothing(message: Message, context: Context) -> None:
    """Forget to reply."""


@client.train("drop")
def drop(message: Message, context: Context) -> Message:
    """Change the message that was received."""
    message.content.clear()
    return Message(RecordDict(), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Query every node once or more and write the replies; or fail, or sleep, as configured."""
    plan = json.loads(Path(str(context.run_config["config"])).read_text())
    out = Path(str(context.run_config["out"]))
    (out / "started").touch()
    nodes = _nodes(grid, plan["sites"])
    replies = [_ask(grid, nodes) for _ in range(plan.get("rounds", 1))]
    if plan.get("raise"):
        failure = {"error": "the quorum was not reached", "exit_code": plan.get("exit_code", 1)}
        (out / "result.json").write_text(json.dumps({"status": "failed", **failure}))
        raise RuntimeError("stop")
    time.sleep(plan.get("sleep", 0))
    (out / "result.json").write_text(json.dumps({"status": "completed", "replies": replies}))


def _nodes(grid: Grid, wanted: int) -> list[int]:
    for _ in range(600):
        if len(nodes := list(grid.get_node_ids())) >= wanted:
            return nodes
        time.sleep(0.1)
    raise RuntimeError("the nodes did not come")


def _ask(grid: Grid, nodes: list[int]) -> list[dict]:
    messages = [Message(RecordDict(), node, "query.count") for node in nodes]
    replies = [reply.content for reply in grid.send_and_receive(messages)]
    found = [{**dict(content["count"]), **dict(content["code"])} for content in replies]
    return sorted(found, key=lambda item: item["partition"])
