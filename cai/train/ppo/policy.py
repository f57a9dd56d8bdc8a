"""The networks of PPO: the policy with its value head, the reference, and what samples from the policy.

Policy and value share a trunk and one forward pass, which projects onto the vocabulary at the response's tokens only.
The reference is a frozen copy, or with LoRA the same network with its adapter off, unless that is in pieces (FSDP2).
Dropout is off everywhere: with it, the ratio to the rollout's policy would not begin at 1.

Precision: in bfloat16, weights stay float32 and the forward pass runs under autocast; frozen linear layers are cast
once, which gives the same bits. Sampling uses a bfloat16 copy, written anew before each rollout: much faster, and the
update never reads what it thinks of its tokens. A LoRA policy's base is frozen, so it is loaded in bfloat16 and is
sampled from in place, as a float32 policy is.

Rows are read packed (`cai.train.packing`): each token once, and no padding. A model that can't be packed reads them
side by side, padded on the right. Either way a model is tried first: what it gives for a few answers must be what its
own forward gives.

Left out: models whose logits are more than the head's product and a soft cap (scaled, biased); they are refused.

Shapes: as in `batch`; S tokens of a packed sequence, L of its longest row, H hidden size.
"""

import contextlib
import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from cai.engines.embedded import resolve_model
from cai.engines.loading import readable
from cai.engines.loading import whole as whole_model
from cai.errors import InputError, Problem
from cai.judges.preference_model import PreferenceModel
from cai.judges.preference_model import head_of as score_head_of
from cai.losses.logprobs import projected_logprobs, projected_logprobs_and_entropy
from cai.processes import loads_whole
from cai.train import packed_attention
from cai.train.common import wants_bf16
from cai.train.packing import pack_tokens
from cai.train.ppo.adapters import POLICY, VALUE, is_values, read_by, with_adapter
from cai.train.ppo.batch import Inputs, response_mask
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.pieces import Gathered, together, whole
from cai.train.readout import TRIED, beyond_the_head, evaluating, gap_of, packs, run_packed, softcap_of, tried_alone


class PolicyWithValue(nn.Module):
    """A causal language model and a linear value head on its last hidden states, as one forward pass."""

    def __init__(
        self,
        policy: nn.Module,
        *,
        temperature: float = 1.0,
        bf16: bool = False,
        entropy: bool = False,
        in_pieces: bool = False,
        value_adapter: bool = False,
    ) -> None:
        """Add a head of zeros: all values are 0 until the first update.

        With `entropy`, training passes give it too. `in_pieces` says that the weights will be cut (`pieces`);
        `value_adapter` that values are read by an adapter of their own, in a pass of their own.
        """
        super().__init__()
        self.policy = policy
        self.temperature, self.bf16, self.entropy, self.in_pieces = temperature, bf16, entropy, in_pieces
        self.value_adapter = value_adapter
        self.value_head = nn.Linear(causal_of(policy).config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(self, inputs: Inputs) -> tuple[Tensor, ...]:
        """Return `logprobs_BT` (nats, at the temperature) and `values_BT`: float32, 0 where the mask is false.

        `entropy_BT` (nats) comes third where it was asked for and a gradient is wanted.
        """
        entropy = self.entropy and torch.is_grad_enabled()
        hidden_NH, *of_tokens = read_response(
            self.policy, inputs, temperature=self.temperature, bf16=self.bf16, entropy=entropy
        )
        if self.value_adapter:
            with read_by(self.policy, VALUE):
                hidden_NH = read_states(self.policy, inputs, bf16=self.bf16)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            values_N = self.value_head(hidden_NH.float())[:, 0]
        found = (of_tokens[0], values_N, *of_tokens[1:])
        return tuple(_spread(each_N, inputs.mask_BT) for each_N in found)

    @property
    def trunk(self) -> list[nn.Parameter]:
        """The trained weights that answers are drawn by."""
        named = self.policy.named_parameters()
        return [weight for name, weight in named if weight.requires_grad and not is_values(name)]

    @property
    def value_weights(self) -> list[nn.Parameter]:
        """The trained weights that only values are read by: the head, and their adapter if they have one."""
        return [weight for name, weight in self.policy.named_parameters() if is_values(name)] + [
            *self.value_head.parameters()
        ]

    @property
    def _no_split_modules(self) -> Any:
        # What accelerate cuts by: the language model's layers.
        return causal_of(self.policy)._no_split_modules


def causal_of(policy: nn.Module) -> PreTrainedModel:
    """Return the language model inside an adapter's wrapper, or the model itself."""
    base = policy.get_base_model() if hasattr(policy, "get_base_model") else policy  # type: ignore[operator]
    return cast(PreTrainedModel, base)


def head_of(causal: Any) -> nn.Linear:
    """Return the layer that makes logits."""
    return cast(nn.Linear, causal.get_output_embeddings())


def read_response(
    policy: nn.Module, inputs: Inputs, *, temperature: float, bf16: bool = False, entropy: bool = False
) -> tuple[Tensor, ...]:
    """Return the hidden states that predict the response's tokens, `hidden_NH`, and these tokens' `logprobs_N`.

    `entropy_N` of the distributions that they are of comes third where it is asked for.
    """
    causal, packed = causal_of(policy), inputs.packed
    with torch.autocast(inputs.mask_BT.device.type, dtype=torch.bfloat16, enabled=bf16):
        hidden_NH = _hidden(causal, inputs)[packed["read"]]
        head_VH, ids_N = head_of(causal).weight, packed["answer_ids"]
        shaping: dict[str, Any] = {"temperature": temperature, "softcap": softcap_of(causal)}
        if entropy:
            return (hidden_NH, *projected_logprobs_and_entropy(hidden_NH, head_VH, ids_N, **shaping))
        return hidden_NH, projected_logprobs(hidden_NH, head_VH, ids_N, **shaping)


def read_states(policy: nn.Module, inputs: Inputs, *, bf16: bool = False) -> Tensor:
    """Return the hidden states that predict the response's tokens, `hidden_NH`."""
    with torch.autocast(inputs.mask_BT.device.type, dtype=torch.bfloat16, enabled=bf16):
        return _hidden(causal_of(policy), inputs)[inputs.packed["read"]]


def _hidden(causal: Any, inputs: Inputs) -> Tensor:
    """Return the last hidden states of the sequence, `hidden_SH`."""
    packed = inputs.packed
    if causal.config._attn_implementation == packed_attention.NAME:
        return cast(Tensor, run_packed(causal.base_model, packed).last_hidden_state[0])
    lengths = [prompt + sum(answers) for prompt, answers in packed["layout"]]
    rows = packed["input_ids"][0].split(lengths)
    # Padding comes after all that may see it, so causal attention needs no mask.
    ids_BL = nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=inputs.pad_id)
    hidden_BLH = causal.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state
    return cast(Tensor, hidden_BLH[response_mask(lengths).to(ids_BL.device)])


def _spread(values_N: Tensor, mask_BT: Tensor) -> Tensor:
    rows, steps = mask_BT.nonzero(as_tuple=True)
    return values_N.new_zeros(mask_BT.shape).index_put((rows, steps), values_N)


def load_policy(config: PPOConfig, device: torch.device, *, in_pieces: bool = False) -> PolicyWithValue:
    """Load the model that is trained, with an adapter if one is asked for."""
    bf16 = wants_bf16(config.precision)
    narrow = bf16 and config.lora is not None
    causal = load_causal(config.model, torch.bfloat16 if narrow else torch.float32, device)
    policy: nn.Module = causal if config.lora is None else with_adapter(causal, config, value=config.value_adapter)
    without_dropout(policy)
    if config.gradient_checkpointing:
        _checkpoint_gradients(causal)
    # Only gradient checkpointing asks whether the model is in training.
    policy.train(config.gradient_checkpointing)
    entropy = config.entropy_coefficient > 0
    model = PolicyWithValue(
        policy, temperature=config.temperature, bf16=bf16, entropy=entropy, in_pieces=in_pieces,
        value_adapter=config.value_adapter,
    )  # fmt: skip
    if config.value_init is not None:
        _begin_value(model.value_head, str(config.value_init), config.value_init_head)
    return model.to(device)


def _begin_value(head: nn.Linear, folder: str, name: str | None) -> None:
    """Let a value head begin as the score of a preference model; raises InputError for one of another width."""
    score: Any = score_head_of(PreferenceModel.load(folder, head=name, device="cpu").model)
    if score.weight.shape != head.weight.shape:
        problem = f"its score reads {score.weight.shape[1]} numbers, and the policy's states have {head.in_features}"
        raise InputError(Problem(folder, 0, 0, problem, "name a preference model of the policy's size"))
    with torch.no_grad():
        head.weight.copy_(score.weight)  # a score has no bias


def load_causal(name: str, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Load a language model by folder, hub id or ``embedded``, switched to packed attention if that gives the same.

    Raises InputError for one that PPO can't score, EngineError for files that are not all of a model.
    """
    path = resolve_model(name)
    with loads_whole(), readable(name):
        loaded = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, trust_remote_code=False, output_loading_info=True
        )
    causal = whole_model(name, loaded).to(device)
    if why := beyond_the_head(causal) or _misread(causal):
        what = f"the model's logits are more than the product with its head and a soft cap: {why}"
        raise InputError(Problem(name, 0, 0, what, "use a model without that for PPO"))
    return cast(PreTrainedModel, causal)


def _misread(causal: Any) -> str:
    """Pack a model if it can be packed; return why its log-probabilities are not read right either way, or nothing."""
    with torch.no_grad(), evaluating(causal):
        alone = tried_alone(causal)
        packs(causal)
        rows = [(prompt, [answer]) for prompt, answers in TRIED for answer in answers]
        lengths = [len(answer) for _, (answer,) in rows]
        inputs = Inputs(pack_tokens(rows), response_mask(lengths), pad_id=0).to(causal.device)
        gap = gap_of(causal, read_response(causal, inputs, temperature=1.0)[1], alone)
    return f"what PPO reads is off by {gap:.1e}" if gap else ""


def trained_anew(policy: PolicyWithValue, config: PPOConfig, weights: Gathered | None = None) -> Any:
    """Return the trained model whole and in float32; an adapter is put on a base that is read again, unrounded.

    `weights` are the policy's, gathered; where they are in pieces they can't be left out.
    """
    if config.lora is None and not policy.in_pieces:
        return causal_of(policy.policy)
    fresh: Any = load_causal(config.model, torch.float32, torch.device("cpu"))
    if config.lora is not None:
        fresh = with_adapter(fresh, config)
    named = (policy if weights is None else weights).named_parameters()
    trained = {
        name: weight
        for name, weight in named
        if weight.requires_grad and name.startswith("policy.") and not is_values(name)
    }
    found = fresh.load_state_dict({name.removeprefix("policy."): one for name, one in trained.items()}, strict=False)
    assert not found.unexpected_keys
    return fresh


def whole_weights(policy: nn.Module) -> dict[str, Tensor]:
    """Return a language model's weights by the names that it was loaded with, an adapter's part added to its layers.

    The sum is taken in float32. Every process takes part where weights are in pieces.
    """
    causal = causal_of(policy)
    found = {
        name.replace(".base_layer.", "."): whole(tensor).detach()
        for name, tensor in causal.state_dict(keep_vars=True).items()
        if ".lora_" not in name
    }
    for name, module in causal.named_modules():
        if hasattr(module, "get_delta_weight") and POLICY in (*module.lora_A, *module.lora_embedding_A):
            place = f"{name}.weight"
            with together(module.parameters()):
                delta = whole(module.get_delta_weight(POLICY)).detach()
            found[place] = found[place].float() + delta.float()
    return found


def without_dropout(model: nn.Module) -> None:
    """Make dropout 0 wherever a model has it."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def _checkpoint_gradients(causal: Any) -> None:
    settings = {"use_reentrant": False}
    if hasattr(causal, "activation_checkpointing_enable"):
        causal.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:
        causal.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)


class Reference:
    """What the KL penalty holds the policy to: the policy's own base where an adapter is trained on it, else a copy."""

    def __init__(self, policy: PolicyWithValue, config: PPOConfig, device: torch.device) -> None:
        """Freeze where the policy starts, or load the model that is named."""
        self._policy, self._decay = policy, config.reference_ema
        # Pieces come together in the forward pass of the whole `PolicyWithValue` only.
        self._own_base = config.lora is not None and config.reference is None and not policy.in_pieces
        self.network = policy.policy if self._own_base else _frozen(policy, config, device)

    def __call__(self, inputs: Inputs) -> Tensor:
        """Return `ref_logprobs_BT` of a forward pass's inputs."""
        adapter_off = read_by(self.network, None) if self._own_base else contextlib.nullcontext()
        with torch.no_grad(), adapter_off:
            _, logprobs_N = read_response(
                self.network, inputs, temperature=self._policy.temperature, bf16=self._policy.bf16
            )
        return _spread(logprobs_N, inputs.mask_BT)

    @property
    def moves(self) -> bool:
        """Whether it follows the policy, so that a checkpoint must hold it."""
        return self._decay is not None

    @torch.no_grad()
    def follow(self) -> None:
        """Go a step towards the policy, if it is to."""
        if self._decay is None:
            return
        source = causal_of(self._policy.policy)
        for mine, its in zip(self.network.parameters(), source.parameters(), strict=True):
            mine.lerp_(whole(its), 1 - self._decay)


def _frozen(policy: PolicyWithValue, config: PPOConfig, device: torch.device) -> nn.Module:
    """Return a copy of where the policy starts, or the model that is named; made before anything is trained."""
    if config.reference is None:
        frozen: nn.Module = _copy(causal_of(policy.policy))
    else:
        frozen = load_causal(config.reference, torch.float32, device)
        if len(head_of(frozen).weight) != len(head_of(causal_of(policy.policy)).weight):
            what = "the reference has another vocabulary than the policy"
            raise InputError(Problem(config.reference, 0, 0, what, "name a model with the same tokenizer"))
    frozen.requires_grad_(False).train(False)
    if policy.bf16 and config.reference_ema is None:  # small steps would be rounded away
        for module in frozen.modules():
            # The head may be the embedding too, which autocast leaves in float32.
            if type(module) is nn.Linear and module is not head_of(frozen):
                module.to(torch.bfloat16)
    return frozen


class Actor:
    """The network that the engine samples from: the policy itself, or a whole copy of it, in bfloat16 where it is."""

    def __init__(self, policy: PolicyWithValue, config: PPOConfig) -> None:
        """Copy the policy where sampling from it in place would be slow, or can't be."""
        self._source = causal_of(policy.policy)
        narrow = policy.bf16 and config.lora is None
        self.is_copy = narrow or config.rollout.ahead or policy.in_pieces
        self.network: nn.Module = policy.policy
        if self.is_copy:
            self.network = _copy(self._source, torch.bfloat16 if narrow else None)

    def refresh(self) -> None:
        """Take over the policy's weights."""
        if self.is_copy:
            with torch.no_grad():
                for mine, its in zip(self.network.parameters(), self._source.parameters(), strict=True):
                    if its.requires_grad:
                        mine.copy_(whole(its))


def _copy(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Return a copy, in another type if one is given; what is frozen is shared."""
    frozen: dict[int, Any] = {id(weight): weight for weight in model.parameters() if not weight.requires_grad}
    return copy.deepcopy(model, frozen).to(dtype=dtype).requires_grad_(False).train(False)
