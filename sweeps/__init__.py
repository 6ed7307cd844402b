"""Train, pretrain, evaluate, launch and track metered GRPO runs."""
