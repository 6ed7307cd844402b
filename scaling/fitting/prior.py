"""What is assumed of a curve before its data: the density of a law's parameters and the kinds of noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Noises", "Prior"]

Array = NDArray[np.float64]
_RHOS = (-0.4, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.78, 0.85, 0.9, 0.94, 0.97, 0.985)
_DRIFTS = (0.32, 1.28, 5.12, 20.48)


@dataclass(frozen=True, eq=False)
class Noises:
    """Kinds of noise, arrays of shape ``(r,)``: AR(1), or white noise on a drift (`scaling.fitting.drift`).

    Attributes:
        rho: lag-1 autocorrelation; 0 where there is a drift.
        drift: (tau / sigma)^2, the variance of the drift's slope after an e-fold of compute to that of the noise; 0 for none.
        log_mass: log prior mass.
    """

    rho: Array
    drift: Array
    log_mass: Array

    def take(self, at: NDArray[np.int64]) -> Noises:
        """Those at these positions."""
        return Noises(self.rho[at], self.drift[at], self.log_mass[at])


@dataclass(frozen=True)
class Prior:
    """What is assumed before the data, beside the bounds of the coefficients and a flat ln sigma.

    Attributes:
        volume: the density of the law's parameters is |J'J|^(volume/2), J the Jacobian of the predictions. 1 makes it flat
            in what the parameters do to the predictions (the generalised fiducial density), 0 flat in the parameters.
        rhos: nodes of the autocorrelation grid, ascending.
        rho_power: density of rho proportional to (1 - rho)^rho_power. -0.5 is the reference prior of AR(1) near rho = 1;
            -0.7 was chosen by the coverage of slow noise (docs/which-law.md); a flat one under-covers there.
        drift: probability that the curve drifts about the law. Chosen by simulation and on real curves (docs/which-law.md):
            without it, sums of sigmoids and dense reward curves are covered too little; a larger one widens the bands of curves
            that follow a law.
        drifts: sizes of that drift, (tau / sigma)^2, as likely as each other.
        flat: coefficients whose own density is flat between their bounds, whatever the others'; the volume is that of the rest.
        onset: only laws whose C_mid lies beyond the window (`scaling.rise.Rise`).
    """

    volume: float = 1.0
    rhos: tuple[float, ...] = _RHOS
    rho_power: float = -0.7
    drift: float = 0.01
    drifts: tuple[float, ...] = _DRIFTS
    flat: tuple[str, ...] = ()
    onset: bool = False

    def noises(self) -> Noises:
        """The kinds of noise and the prior mass of each."""
        rho = np.asarray(self.rhos)
        mass = self._mass(rho)
        if not self.drift:
            return Noises(rho, np.zeros(rho.size), np.log(mass))
        drift, none = np.asarray(self.drifts), np.zeros(len(self.drifts))
        return Noises(
            rho=np.concatenate([rho, none]),
            drift=np.concatenate([np.zeros(rho.size), drift]),
            log_mass=np.log(np.concatenate([(1.0 - self.drift) * mass, none + self.drift / drift.size])),
        )

    def _mass(self, rho: Array) -> Array:
        """Prior mass of each autocorrelation: density times the node's cell."""
        if rho.size == 1:
            return np.ones(1)
        middle = (rho[1:] + rho[:-1]) / 2
        edges = np.concatenate([[1.5 * rho[0] - 0.5 * rho[1]], middle, [min(1.0, 1.5 * rho[-1] - 0.5 * rho[-2])]])
        mass = np.diff(edges) * (1.0 - rho) ** self.rho_power
        return mass / mass.sum()
