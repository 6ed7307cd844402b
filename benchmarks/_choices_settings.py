"""Settings of the default mixture that `choices.py` compares, and the constants of `scaling.fitting` set to one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass, fields
from unittest.mock import patch

import numpy as np

from scaling.fitting import api, ensemble
from scaling.fitting.ensemble import LAMBDA, ODDS, ONSET
from scaling.fitting.prior import Prior

_LAWS = ("weibull", "power", "log_linear", ONSET)


@dataclass(frozen=True)
class Setting:
    """Constants of the default mixture; what is not named is as it is in `scaling.fitting`.

    Attributes:
        weibull, power, log_linear, onset: prior odds to a sigmoid's 1; 0 leaves the law out.
        lam: LAMBDA of the price of a parameter.
        evidence: power of the evidence in the weights: 1 the posterior's, 0 leaves the odds alone.
        rho_power: the density of the lag-1 autocorrelation is (1 - rho)^rho_power ...
        rho_max: ... at nodes up to here.
        drift: prior probability that the curve drifts about its law.
    """

    weibull: float = ODDS["weibull"]
    power: float = ODDS["power"]
    log_linear: float = ODDS["log_linear"]
    onset: float = ODDS[ONSET]
    lam: float = LAMBDA
    evidence: float = 1.0
    rho_power: float = Prior.rho_power
    rho_max: float = Prior.rhos[-1]
    drift: float = Prior.drift

    @property
    def key(self) -> str:
        """The constants in this order, by which results are kept."""
        return ",".join(f"{value:g}" for value in astuple(self))


PRESENT = Setting()
NAMES = tuple(f.name for f in fields(Setting))


@contextmanager
def constants(setting: Setting) -> Iterator[None]:
    """`scaling.fit` with the constants of ``setting``, in this process and until the block ends.

    The odds are a dictionary that `fit` reads, LAMBDA a name of `scaling.fitting.ensemble`, the density of rho a default of
    `Prior`, which no fit here is given. A law with odds of 0 is neither integrated nor weighed.
    """
    odds = {name: getattr(setting, name) for name in _LAWS}
    weigh = api.evidence_weights

    def weights(members, *, odds):
        kept = {name: m for name, m in members.items() if odds.get(name, 1.0) > 0}
        if setting.evidence == 1.0:
            return weigh(kept, odds=odds)
        possible = {name: all(np.isfinite(i.log_evidence) for i in m) for name, m in kept.items()}
        raw = {
            name: float(possible[name]) * w**setting.evidence * odds.get(name, 1.0)
            for name, w in weigh(kept, odds={}).items()
        }
        return {name: w / sum(raw.values()) for name, w in raw.items()}

    prior = {f.name: f.default for f in fields(Prior)}
    prior |= {"rho_power": setting.rho_power, "rhos": tuple(r for r in Prior.rhos if r <= setting.rho_max)}
    prior |= {"drift": setting.drift}
    with ExitStack() as stack:
        stack.enter_context(patch.dict(ensemble.ODDS, odds))
        stack.enter_context(patch.object(ensemble, "LAMBDA", setting.lam))
        stack.enter_context(patch.object(api, "ENSEMBLE", tuple(k for k in api.ENSEMBLE if odds.get(k, 1.0) > 0)))
        stack.enter_context(patch.object(api, "evidence_weights", weights))
        stack.enter_context(patch.object(Prior.__init__, "__defaults__", tuple(prior.values())))
        yield


_EARLIER = {"weibull": 0.0, "power": 1.0, "log_linear": 3.0, "onset": 0.0}  # the mixture LAMBDA was chosen in
_EQUAL = {"weibull": 0.0, "power": 1.0, "log_linear": 1.0, "onset": 0.0}

SETTINGS: dict[str, dict[str, Setting]] = {
    "odds": {
        "0, 1, 3 (no Weibull in the mixture)": Setting(weibull=0.0, power=1.0, log_linear=3.0),
        "1, 1, 3": Setting(weibull=1.0, power=1.0, log_linear=3.0),
        ".3, 2, 8": Setting(weibull=0.3, power=2.0, log_linear=8.0),
        ".5, 4, 15": Setting(weibull=0.5, power=4.0, log_linear=15.0),
        "1, 6, 20": Setting(weibull=1.0, power=6.0, log_linear=20.0),
    },
    "lambda": {
        "LAMBDA 1 (the unit information of BIC), no odds": Setting(**_EQUAL, lam=1.0),
        "LAMBDA .4": Setting(**_EARLIER, lam=0.4),
        "LAMBDA .2": Setting(**_EARLIER, lam=0.2),
        "LAMBDA .1": Setting(**_EARLIER, lam=0.1),
        "LAMBDA .4, evidence to the power 1/4": Setting(**_EARLIER, lam=0.4, evidence=0.25),
        "equal weights": Setting(**_EQUAL, evidence=0.0),
        "today's mixture, LAMBDA .4": Setting(lam=0.4),
        "today's mixture, LAMBDA .2": Setting(lam=0.2),
        "today's mixture, LAMBDA .1": Setting(lam=0.1),
    },
    "onset": {f"{odds:g}": Setting(onset=odds) for odds in (0.0, 1.0, 2.0, 4.0)},
    "noise": {
        "-1/2 (the reference density of AR(1) near 1)": Setting(rho_power=-0.5),
        "-.65": Setting(rho_power=-0.65),
        "-.7": Setting(rho_power=-0.7),
        "-.75": Setting(rho_power=-0.75),
        "-.7, cut at rho .94": Setting(rho_power=-0.7, rho_max=0.94),
    },
    "drift": {f"{share:g}": Setting(drift=share) for share in (0.0, 0.01, 0.02, 0.05, 0.2)},
}


def reference(table: str, setting: Setting) -> str:
    """Label of the row of ``table`` that a setting is compared to: what the library has, or had when LAMBDA was chosen."""
    own = Setting(**_EARLIER) if table == "lambda" and setting.weibull == 0.0 else PRESENT
    return next(label for label, s in SETTINGS[table].items() if s == own)
