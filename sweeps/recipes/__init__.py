"""Pieces of published recipes that TRL lacks, each a small subclass or sampler."""
