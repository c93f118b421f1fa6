"""The typed, strict config of a run, read from YAML and written to YAML.

Every registered class has its own ``Params`` model with its keys and defaults. This package finds them through the
registries, and turns every error into one line: the key, what was expected, what was found.
"""

from fedrecon_core.config.base import (
    Data,
    DataParams,
    Feature,
    Fusion,
    GroupSelection,
    Params,
    Partition,
    Recovery,
    Strategy,
    StrategyParams,
    require_defaults,
)
from fedrecon_core.config.missing import (
    Missing,
    MissingHeldOut,
    Missingness,
    MissingTest,
    MissingTrain,
    Profile,
    Rate,
    Rates,
)
from fedrecon_core.config.run import ModelConfig, RunConfig, parse, parse_model
from fedrecon_core.config.sections import (
    Engine,
    Evaluate,
    Kind,
    Kinds,
    Local,
    Phase,
    Sites,
    Task,
    Updates,
)

__all__ = [
    "Data",
    "DataParams",
    "Engine",
    "Evaluate",
    "Feature",
    "Fusion",
    "GroupSelection",
    "Kind",
    "Kinds",
    "Local",
    "Missing",
    "MissingHeldOut",
    "MissingTest",
    "MissingTrain",
    "Missingness",
    "ModelConfig",
    "Params",
    "Partition",
    "Phase",
    "Profile",
    "Rate",
    "Rates",
    "Recovery",
    "RunConfig",
    "Sites",
    "Strategy",
    "StrategyParams",
    "Task",
    "Updates",
    "parse",
    "parse_model",
    "require_defaults",
]
