"""How large a run is: numbers of prompts, tokens and steps, for two cores without a GPU.

``smoke`` takes under three minutes and shows that everything works; ``demo`` takes under fifteen; ``full`` uses all
prompts and the paper's four rounds, and takes a couple of hours. What a size says, a run's `stages` can overrule.
"""

from typing import Any, Literal

Size = Literal["smoke", "demo", "full"]

Settings = dict[str, Any]

SIZES: dict[Size, dict[str, Settings]] = {
    "smoke": {
        "prompts": {"red_team": 8, "helpful": 6, "label": 8, "held_out": {"red_team": 6, "benign": 3, "helpful": 3}},
        "generate": {
            "rounds": 1,
            "helpful_per_prompt": 1,
            "sampling": {"temperature": 0.7, "top_p": 0.95, "max_new_tokens": 40},
            "critique_tokens": 24,
            "window": 4,
        },
        "sft": {"epochs": 1, "batch_size": 4, "learning_rate": 2e-5, "save_every": 2},
        "label": {
            "sampling": {"temperature": 1.0, "max_new_tokens": 24},
            "judge": {"kind": "direction", "contrasts": 8, "contrast_tokens": 16},
            "window": 4,
        },
        "reward": {"epochs": 1, "batch_size": 4, "learning_rate": 2e-5, "save_every": 2},
        "dpo": {"epochs": 1, "batch_size": 4, "learning_rate": 5e-6, "save_every": 2},
        "online_dpo": {
            "rounds": 2,
            "prompts_per_round": 4,
            "batch_size": 4,
            "learning_rate": 5e-6,
            "save_every": 2,
            "label": {"sampling": {"temperature": 1.0, "max_new_tokens": 16}, "window": 4},
        },
        "ppo": {"steps": 2, "batch_size": 4, "max_new_tokens": 16, "epochs": 2, "minibatches": 1, "save_every": 1},
        "grpo": {"steps": 2, "batch_size": 1, "generations": 4, "max_new_tokens": 16, "save_every": 1},
        "rloo": {"steps": 2, "batch_size": 1, "generations": 4, "max_new_tokens": 16, "save_every": 1},
        "evaluate": {"sampling": {"temperature": 0.7, "top_p": 0.95, "max_new_tokens": 24}, "window": 16},
    },
    "demo": {
        "prompts": {
            "red_team": 64,
            "helpful": 48,
            "label": 128,
            "held_out": {"red_team": 48, "benign": 24, "helpful": 24},
        },
        "generate": {
            "rounds": 2,
            "helpful_per_prompt": 1,
            "sampling": {"temperature": 0.7, "top_p": 0.95, "max_new_tokens": 64},
            "critique_tokens": 48,
        },
        "sft": {"epochs": 2, "batch_size": 8, "learning_rate": 2e-5, "save_every": 0},
        "label": {
            "sampling": {"temperature": 1.0, "max_new_tokens": 64},
            "judge": {"kind": "direction", "contrasts": 72, "contrast_tokens": 40},
        },
        "reward": {"epochs": 2, "batch_size": 8, "learning_rate": 2e-5, "save_every": 0},
        "dpo": {"epochs": 2, "batch_size": 8, "learning_rate": 5e-6, "save_every": 0},
        "online_dpo": {
            "rounds": 3,
            "prompts_per_round": 64,
            "batch_size": 8,
            "learning_rate": 5e-6,
            "save_every": 0,
            "label": {"sampling": {"temperature": 1.0, "max_new_tokens": 48}},
        },
        "ppo": {"steps": 12, "batch_size": 16, "max_new_tokens": 48, "epochs": 2, "minibatches": 2, "save_every": 0},
        "grpo": {"steps": 12, "batch_size": 4, "generations": 4, "max_new_tokens": 48, "save_every": 0},
        "rloo": {"steps": 12, "batch_size": 4, "generations": 4, "max_new_tokens": 48, "save_every": 0},
        "evaluate": {"sampling": {"temperature": 0.7, "top_p": 0.95, "max_new_tokens": 64}},
    },
    "full": {
        "prompts": {
            "red_team": 300,
            "helpful": 300,
            "label": 300,
            "held_out": {"red_team": 100, "benign": 60, "helpful": 100},
        },
        "generate": {
            "rounds": 4,
            "helpful_per_prompt": 2,
            "sampling": {"temperature": 0.7, "top_p": 0.95, "max_new_tokens": 128},
            "critique_tokens": 96,
        },
        "sft": {"epochs": 2, "batch_size": 16, "learning_rate": 2e-5, "save_every": 40},
        "label": {
            "sampling": {"temperature": 1.0, "max_new_tokens": 128},
            "judge": {"kind": "direction", "contrasts": 144, "contrast_tokens": 48},
        },
        "reward": {"epochs": 2, "batch_size": 16, "learning_rate": 2e-5, "save_every": 20},
        "dpo": {"epochs": 2, "batch_size": 16, "learning_rate": 5e-6, "save_every": 20},
        "online_dpo": {
            "rounds": 4,
            "prompts_per_round": 300,
            "batch_size": 16,
            "learning_rate": 5e-6,
            "save_every": 20,
            "label": {"sampling": {"temperature": 1.0, "max_new_tokens": 96}},
        },
        "ppo": {"steps": 60, "batch_size": 32, "max_new_tokens": 96, "epochs": 2, "minibatches": 2, "save_every": 10},
        "grpo": {"steps": 60, "batch_size": 8, "generations": 4, "max_new_tokens": 96, "save_every": 10},
        "rloo": {"steps": 60, "batch_size": 8, "generations": 4, "max_new_tokens": 96, "save_every": 10},
        "evaluate": {"sampling": {"temperature": 0.7, "top_p": 0.95, "max_new_tokens": 128}},
    },
}
