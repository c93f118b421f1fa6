"""Messages between server and sites: dataclasses, and their conversion to Flower's records and back. Names of records
are used in this package only.

There are three kinds: query ``describe`` asks for a site's description, train ``local`` for one local round, evaluate
``site`` for scores at a site. A site that fails to handle a message sends an ``error`` record instead. A parameter
group is one ArrayRecord under its own name, with its tensors bundled into one array; only names of groups contain a
dot.
"""

from strategies.messages.describe import Holding, Identity, OwnData, SiteInfo, read_site_info, write_site_info
from strategies.messages.groups import bundle, flatten, group_sizes, is_group, read_groups, unbundle, unflatten
from strategies.messages.instruction import (
    DESCRIBE,
    DESCRIBE_TYPE,
    LOCAL,
    LOCAL_TYPE,
    SITE,
    SITE_TYPE,
    Accepted,
    TrainInstruction,
    addressee,
    read_global_info,
    read_instruction,
    read_split,
    write_global_info,
    write_instruction,
    write_split,
)
from strategies.messages.replies import (
    SiteError,
    TrainReply,
    read_error,
    read_scores,
    read_train_reply,
    scores_of,
    write_error,
    write_scores,
    write_train_reply,
)

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
    "OwnData",
    "SiteError",
    "SiteInfo",
    "TrainInstruction",
    "TrainReply",
    "addressee",
    "bundle",
    "flatten",
    "group_sizes",
    "is_group",
    "read_error",
    "read_global_info",
    "read_groups",
    "read_instruction",
    "read_scores",
    "read_site_info",
    "read_split",
    "read_train_reply",
    "scores_of",
    "unbundle",
    "unflatten",
    "write_error",
    "write_global_info",
    "write_instruction",
    "write_scores",
    "write_site_info",
    "write_split",
    "write_train_reply",
]
