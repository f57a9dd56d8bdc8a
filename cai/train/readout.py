"""What the trainers read of a packed batch: log-probabilities of answers, or a score at the end of each.

Before it is trained, a model is tried: what it gives for two small packed rows must be what it gives for each prompt
with each answer alone, by its own attention. Models whose layers look past what `cai.train.packed_attention` rules
(recurrent ones, chunked attention) or whose logits are more than the head's product and a soft cap are refused.

T tokens of a packed sequence, N tokens of all answers, A answers, H hidden size, V vocabulary.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cai.engines.network import SCALED_LOGITS
from cai.errors import InputError, Problem
from cai.judges.preference_model import head_of
from cai.losses.logprobs import projected_logprobs
from cai.train import packed_attention
from cai.train.packing import Row, pack_ends, pack_tokens

INPUTS = ("input_ids", "position_ids", "layout")

CAP = "final_logit_softcapping"
"""The config's field of a soft cap on logits."""


def answer_logprobs(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """Return the log-probability of every token of the answers of `pack_tokens`' batch, [N], in nats, float32.

    The vocabulary is projected for those positions alone, a tile at a time. It happens inside the model's forward, in
    place of its output layer, where wrappers have that layer's weights gathered and autocast is on.
    """
    with _projecting(_unwrapped(model), batch["answer_ids"]):
        output = run_packed(model, batch, logits_to_keep=batch["read"])
    logprobs_N: Tensor = output.logits[0, :, 0]
    return logprobs_N


def answer_sums(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """Return the log-probability of each answer of `pack_tokens`' batch, [A], in nats, float32."""
    logprobs_N = answer_logprobs(model, batch)
    count = sum(len(answers) for _, answers in batch["layout"])
    zeros = torch.zeros(count, dtype=logprobs_N.dtype, device=logprobs_N.device)
    return zeros.index_add(0, batch["answers"], logprobs_N)


def answer_scores(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """Return a classifier's score of each answer of `pack_ends`' batch, [A] (several scores: [A, scores]), float32."""
    hidden_1TH = run_packed(model, batch, output_hidden_states=True).hidden_states[-1]
    scores_A: Tensor = head_of(model)(hidden_1TH[0, batch["read"]]).squeeze(-1).float()
    return scores_A


def row_scores(model: Any, rows: Sequence[Sequence[int]], pad_id: int = 0) -> Tensor:
    """Return a sequence classifier's score at the end of each row of ids, [A]; packed rows need no padding."""
    return answer_scores(model, placed(pack_ends([((), (row,)) for row in rows]), model.device))


def placed(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Return a batch with its tensors on a device."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Turn dropout off for a while.

    Layers in 4 bits stay as they are: bitsandbytes lays out their weights anew for inference on a CPU, for good.
    """
    training = [module for module in model.modules() if module.training and type(module).__name__ != "Linear4bit"]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def use_packing(model: Any, name: str) -> Any:
    """Switch a model to packed attention and return it.

    Raises InputError when it does not give the same that way; `name` is what the message calls it.
    """
    _refuse_by_config(model, name)
    before = model.config._attn_implementation
    with torch.no_grad(), evaluating(model):
        alone = tried_alone(model)
        model.set_attn_implementation(packed_attention.NAME)
        try:
            together = _together(model)
        except (NotImplementedError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            model.set_attn_implementation(before)
            raise _refusal(name, model, str(error)) from error
    if gap := gap_of(model, together, alone):
        model.set_attn_implementation(before)
        raise _refusal(name, model, f"a packed batch gives other results, by {gap:.1e}")
    return model


def packs(model: Any) -> bool:
    """Switch a model to packed attention if it gives the same that way, and tell whether it does."""
    try:
        use_packing(model, "")
    except InputError:
        return False
    return True


TRIED: list[Row] = [([1, 5, 3, 8], [[7, 2, 9], [4, 6, 1, 3]]), ([9, 2], [[6, 5], [8, 8, 1]])]
"""What a model is tried on."""


def _together(model: Any) -> Tensor:
    if _scores(model):
        return answer_scores(model, placed(pack_ends(TRIED), model.device)).flatten()
    return answer_logprobs(model, placed(pack_tokens(TRIED), model.device))


def tried_alone(model: Any) -> Tensor:
    """Return what a model gives for `TRIED`, each answer in a pass of its own: log-probabilities [N], or scores [A]."""
    found = []
    for prompt, answers in TRIED:
        for answer in answers:
            ids = torch.tensor([[*prompt, *answer]], device=model.device)
            output = model(input_ids=ids, use_cache=False, output_hidden_states=_scores(model))
            if _scores(model):
                found.append(head_of(model)(output.hidden_states[-1][0, -1]).float())
            else:
                logprobs = output.logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
                found.append(logprobs.gather(-1, ids[0, len(prompt) :, None])[:, 0])
    return torch.cat(found)


def gap_of(model: Any, found: Tensor, alone: Tensor) -> float:
    """Return how far numbers are from those of `tried_alone`, root mean square; 0 for what rounding explains.

    Weights that give NaN either way are nobody's fault here: the training says so, with the rows.
    """
    gap = float((alone - found).square().mean().sqrt())
    tolerance = 1e-3 if model.dtype == torch.float32 and not getattr(model, "quantization_method", None) else 0.2
    right = gap <= tolerance * max(1.0, float(alone.std())) or not torch.isfinite(alone).all()
    return 0.0 if right else gap


def _scores(model: Any) -> bool:
    """Whether a model is a sequence classifier."""
    return model.get_output_embeddings() is None


def softcap_of(model: Any) -> float | None:
    """Return the soft cap that a model puts on its logits (Gemma 2), if it does."""
    cap: float | None = getattr(model.config.get_text_config(), CAP, None)
    return cap


def beyond_the_head(model: Any) -> str:
    """Return what a language model's logits are that no product with its head and no soft cap is, or nothing."""
    config = model.config.get_text_config()
    for field in SCALED_LOGITS:
        if field != CAP and getattr(config, field, None) not in (None, 1, 1.0, False):
            return f"its config has '{field}'"
    return "its output layer has a bias" if getattr(model.get_output_embeddings(), "bias", None) is not None else ""


def _refuse_by_config(model: Any, name: str) -> None:
    if getattr(model.config.get_text_config(), "attention_chunk_size", None):
        raise _refusal(name, model, "its config has 'attention_chunk_size'")
    if not _scores(model) and (more := beyond_the_head(model)):
        raise _refusal(name, model, more)


def _refusal(name: str, model: Any, why: str) -> InputError:
    return InputError(
        Problem(name, 0, 0, f"{type(model).__name__} cannot be trained on packed rows: {why}", "take another model")
    )


def run_packed(model: Any, batch: Mapping[str, Any], **options: Any) -> Any:
    """Return what a model, or its trunk, makes of a packed batch."""
    return model(
        **{name: batch[name] for name in INPUTS},
        # Four dimensions mean a finished mask: none is built, and packed attention reads none.
        attention_mask=batch["input_ids"].new_empty(1, 1, 1, 1),
        use_cache=False,
        **options,
    )


def _unwrapped(model: Any) -> Any:
    return getattr(model, "module", model)


@contextlib.contextmanager
def _projecting(model: Any, answer_ids_N: Tensor) -> Iterator[None]:
    """Let the output layer return the answers' log-probabilities, [1, N, 1], in place of logits."""
    head, config, cap = model.get_output_embeddings(), model.config.get_text_config(), softcap_of(model)
    before = head.__dict__.get("forward")

    def forward(hidden_1NH: Tensor) -> Tensor:
        return projected_logprobs(hidden_1NH[0], head.weight, answer_ids_N, softcap=cap)[None, :, None]

    head.forward = forward
    if cap is not None:  # it is done here: the model would put it on the log-probabilities
        setattr(config, CAP, None)
    try:
        yield
    finally:
        if cap is not None:
            setattr(config, CAP, cap)
        if before is None:
            del head.forward
        else:
            head.forward = before
