"""The launcher plugin: composes each row and hands the grid to `sweeps.launch`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

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
        composed = [(filter_overrides(overrides), self._compose(overrides, initial_job_idx + i)) for i, overrides in enumerate(job_overrides)]
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

    def _compose(self, overrides: Sequence[str], number: int) -> dict[str, Any]:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            del config["hydra"]
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
