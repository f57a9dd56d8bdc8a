"""Trainers: supervised finetuning, preference model, DPO and PPO. Each is a config and a function that runs it."""
