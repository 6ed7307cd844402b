"""Hydra launcher of rl-scaling: sweeps that outlive their shell."""
