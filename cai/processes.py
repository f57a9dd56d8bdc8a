"""This process among its fellows: which rank it is, how many there are, and how they wait for each other.

`accelerate launch` tells each process its rank through the environment; without it there is one.
"""

import logging
import os


def rank() -> int:
    """Return the number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """Return how many processes work on this stage."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Tell whether this process writes what only one may write."""
    return rank() == 0


def wait_for_all() -> None:
    """Return when every process has come here."""
    if world() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def quiet_libraries() -> None:
    """Keep other libraries' bars and warnings off the terminal, which is for what the work itself has to say.

    To be called before they are imported.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("accelerate", "bitsandbytes", "peft", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
