"""Hydra launcher of rl-scaling: sweeps that outlive their shell.

Hydra imports every module of ``hydra_plugins`` at start-up, so nothing heavy is imported here.
"""

from hydra.core.config_store import ConfigStore

from hydra_plugins.rl_scaling_launcher.launcher import RlScalingLauncher
from hydra_plugins.rl_scaling_launcher.sweeper import RlScalingSweeper

__all__ = ["RlScalingLauncher", "RlScalingSweeper", "register"]

ConfigStore.instance().store(
    group="hydra/launcher",
    name="rl_scaling",
    node={"_target_": "hydra_plugins.rl_scaling_launcher.launcher.RlScalingLauncher"},
    provider="rl_scaling",
)
ConfigStore.instance().store(
    group="hydra/sweeper",
    name="rl_scaling",
    node={
        "_target_": "hydra_plugins.rl_scaling_launcher.sweeper.RlScalingSweeper",
        "max_batch_size": None,
        "params": None,
    },
    provider="rl_scaling",
)


def register() -> None:
    """Make launcher and sweeper known without Hydra's scan, which does not see into an editable installation."""
    from hydra.core.plugins import Plugins

    Plugins.instance().register(RlScalingLauncher)
    Plugins.instance().register(RlScalingSweeper)
