"""RL relative to pretraining: the loss law L(N, D), joint laws over sizes, the split of a budget, the worth of RL."""

from scaling.pretraining.bases import StudyRun, condition_number, study_runs
from scaling.pretraining.headline import Effect, Headline, headline
from scaling.pretraining.joint import HeldOutSize, JointFit, fit_joint
from scaling.pretraining.loss import LossFit, LossLaw, LossOptimum, fit_loss
from scaling.pretraining.split import Split, best_split
from scaling.pretraining.surface import OffsetExponential, SurfaceFit, SurfaceLaw, fit_surface
from scaling.pretraining.worth import Worth, WorthAgainst, worth

__all__ = [
    "Effect",
    "Headline",
    "HeldOutSize",
    "JointFit",
    "LossFit",
    "LossLaw",
    "LossOptimum",
    "OffsetExponential",
    "Split",
    "StudyRun",
    "SurfaceFit",
    "SurfaceLaw",
    "Worth",
    "WorthAgainst",
    "best_split",
    "condition_number",
    "fit_joint",
    "fit_loss",
    "fit_surface",
    "headline",
    "study_runs",
    "worth",
]
