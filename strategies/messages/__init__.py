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
from strategies.messages.instructions import (
    Accepted,
    TrainInstruction,
    addressee,
    read_instruction,
    read_knowledge,
    read_split,
    write_instruction,
    write_knowledge,
    write_split,
)
from strategies.messages.results import TrainReply, read_numbers, read_result, write_result
from strategies.messages.scores import read_scores, scores_of, write_scores
from strategies.messages.value_types import DESCRIBE, DESCRIBE_TYPE, LOCAL, LOCAL_TYPE, SITE, SITE_TYPE, MetricValues

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
    "OwnData",
    "SiteInfo",
    "TrainInstruction",
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
    "read_instruction",
    "read_knowledge",
    "read_numbers",
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
    "write_instruction",
    "write_knowledge",
    "write_result",
    "write_scores",
    "write_site",
    "write_split",
]
