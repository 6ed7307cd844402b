"""RL relative to pretraining: the loss law L(N, D), joint laws over sizes, the split of a budget."""

from scaling.pretraining.joint import HeldOutSize, JointFit, fit_joint
from scaling.pretraining.loss import LossFit, LossLaw, LossOptimum, fit_loss

__all__ = ["HeldOutSize", "JointFit", "LossFit", "LossLaw", "LossOptimum", "fit_joint", "fit_loss"]
