"""RL relative to pretraining: the loss law L(N, D), joint laws over sizes, the split of a budget."""

from scaling.pretraining.loss import LossFit, LossLaw, LossOptimum, fit_loss

__all__ = ["LossFit", "LossLaw", "LossOptimum", "fit_loss"]
