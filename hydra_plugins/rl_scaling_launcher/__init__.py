"""Hydra launcher of rl-scaling: sweeps that outlive their shell.

Hydra imports every module of ``hydra_plugins`` at start-up, so nothing heavy is imported here.
"""

from hydra.core.config_store import ConfigStore

from hydra_plugins.rl_scaling_launcher.launcher import RlScalingLauncher

__all__ = ["RlScalingLauncher"]

ConfigStore.instance().store(
    group="hydra/launcher",
    name="rl_scaling",
    node={"_target_": "hydra_plugins.rl_scaling_launcher.launcher.RlScalingLauncher"},
    provider="rl_scaling",
)
