"""A preference model as one more adapter over the policy's frozen base: it costs its few weights, and no trunk.

It has to be trained with `lora` from the model that the policy starts from. What it gives is what the merged model
gives, but that a base in bfloat16 (`policy`) rounds its states, too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer

from cai.engines.embedded import model_digest
from cai.engines.loading import readable
from cai.engines.render import Renderer
from cai.errors import EngineError
from cai.judges.preference_model import PreferenceModel
from cai.train.packing import pack_ends
from cai.train.ppo.adapters import read_by
from cai.train.ppo.batch import Inputs, response_mask
from cai.train.ppo.policy import PolicyWithValue, causal_of, read_states

SCORE = "base_model.model.score.weight"
"""The head among an adapter's weights."""


class Head(nn.Module):
    """What a preference model has beside its trunk."""

    def __init__(self, config: Any, weight_KH: Tensor) -> None:
        """Read scores by these weights; `config` names them."""
        super().__init__()
        self.config = config
        self.score = nn.Linear(weight_KH.shape[1], weight_KH.shape[0], bias=False, device="meta")
        self.score.weight = nn.Parameter(weight_KH.float(), requires_grad=False)


def hold(policy: PolicyWithValue, folder: Path) -> PreferenceModel:
    """Put a preference model's adapter beside the policy's; nothing that is trained or sampled from changes.

    Raises EngineError for a folder that is not all of one.
    """
    from peft import PeftConfig, set_peft_model_state_dict

    network: Any = policy.policy
    name = f"preference_{len(network.peft_config)}"
    with readable(str(folder)):
        settings: Any = PeftConfig.from_pretrained(str(folder))
        settings.task_type, settings.modules_to_save, settings.lora_dropout = "CAUSAL_LM", None, 0.0
        weights = load_file(folder / "adapter_model.safetensors", device=str(causal_of(network).device))
        config, renderer = AutoConfig.from_pretrained(folder), Renderer(AutoTokenizer.from_pretrained(folder))
        network.add_adapter(name, settings)
        score_KH: Any = weights.pop(SCORE, None)
        found: Any = set_peft_model_state_dict(network, weights, adapter_name=name)
    absent = [key for key in found.missing_keys if f".{name}." in key] + ([SCORE] if score_KH is None else [])
    if absent or found.unexpected_keys:
        what = f"no weights for {absent[0]}" if absent else f"weights of another model ({found.unexpected_keys[0]})"
        raise EngineError(f"{folder}: the files have {what}")

    def read(model: Any, rows: Sequence[Sequence[int]], pad_id: int) -> Tensor:
        packed = pack_ends([((), (row,)) for row in rows])
        inputs = Inputs(packed, response_mask([len(row) for row in rows]), pad_id).to(causal_of(network).device)
        with read_by(network, name):
            hidden_AH = read_states(network, inputs, bf16=policy.bf16)
        scores_A: Tensor = model.score(hidden_AH.float()).squeeze(-1)
        return scores_A

    model: Any = Head(config, score_KH)
    held = PreferenceModel(model, renderer, revision=model_digest(str(folder)))
    held.read = read
    return held
