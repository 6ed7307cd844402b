"""The launcher plugin: composes each row and hands the grid to `sweeps.launch`."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.rl_scaling_launcher.compose import Composer

__all__ = ["RlScalingLauncher"]


class RlScalingLauncher(Launcher):
    """Launches a multirun with the engine named by ``cluster.engine``; the task function never runs in this process."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what composing rows needs."""
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Launch one batch of rows; a failure of any run ends the multirun with a non-zero exit code."""
        from sweeps.launch import Interrupted, launch

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        composer = Composer(self.hydra_context.config_loader, self.config)
        composed = [(filter_overrides(overrides), composer.compose(overrides)) for overrides in job_overrides]
        try:
            scores = launch(composed, first=initial_job_idx)
        except Interrupted as interrupted:
            print(interrupted, flush=True)
            raise SystemExit(130) from None
        returns = []
        for overrides, score in zip(job_overrides, scores):
            done = JobReturn()
            done.overrides, done.status = list(overrides), JobStatus.COMPLETED
            done.return_value = score
            returns.append(done)
        return returns
