"""Fits of laws to curves: `fit` draws from the posterior of a law or of an ensemble of laws and returns a `Fit`."""

from scaling.fitting.api import fit
from scaling.fitting.result import Fit
from scaling.fitting.storage import load_fit

__all__ = ["Fit", "fit", "load_fit"]
