"""Published facts with their sources: accelerators, pretraining and RL compute of public models."""
