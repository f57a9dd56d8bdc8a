"""Rewards of reinforcement learning: what they are (`config`), how they are added up (`sum`), where they come from."""
