"""The records of every message between server and sites. This package is the only place that names them.

query ``describe``: who a site is; train ``local``: one local round; evaluate ``site``: scores at a site. A parameter
group travels as one ArrayRecord under its own name (which always holds a dot, so it never meets a record name), with
its tensors bundled into one array.
"""

from strategies.messages.arrays import opened
from strategies.messages.descriptions import (
    Holding,
    Identity,
    OwnData,
    SiteInfo,
    read_identity,
    read_site,
    write_identity,
    write_site,
)
from strategies.messages.groups import (
    bundle,
    flatten,
    group_sizes,
    is_group,
    pack_group,
    read_groups,
    record_bytes,
    unbundle,
    unflatten,
    unpack_group,
)
from strategies.messages.kinds import DESCRIBE, DESCRIBE_TYPE, LOCAL, LOCAL_TYPE, SITE, SITE_TYPE, MetricValues
from strategies.messages.orders import (
    Accepted,
    Order,
    addressee,
    read_knowledge,
    read_order,
    read_split,
    write_knowledge,
    write_order,
    write_split,
)
from strategies.messages.results import TrainReply, read_numbers, read_result, write_result
from strategies.messages.scores import read_scores, scores_of, write_scores

__all__ = [
    "DESCRIBE",
    "DESCRIBE_TYPE",
    "LOCAL",
    "LOCAL_TYPE",
    "SITE",
    "SITE_TYPE",
    "Accepted",
    "Holding",
    "Identity",
    "MetricValues",
    "Order",
    "OwnData",
    "SiteInfo",
    "TrainReply",
    "addressee",
    "bundle",
    "flatten",
    "group_sizes",
    "is_group",
    "opened",
    "pack_group",
    "read_groups",
    "read_identity",
    "read_knowledge",
    "read_numbers",
    "read_order",
    "read_result",
    "read_scores",
    "read_site",
    "read_split",
    "record_bytes",
    "scores_of",
    "unbundle",
    "unflatten",
    "unpack_group",
    "write_identity",
    "write_knowledge",
    "write_order",
    "write_result",
    "write_scores",
    "write_site",
    "write_split",
]
