from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaForSequenceClassification,
    MambaConfig,
    MambaForCausalLM,
)

from cai.errors import InputError
from cai.train.ppo.batch import Inputs, make_inputs
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.policy import (
    Actor,
    PolicyWithValue,
    Reference,
    causal_of,
    load_causal,
    load_policy,
    trained_anew,
    without_dropout,
)
from tests.engines import tiny
from tests.train.ppo.rig import sample, settings

CPU = torch.device("cpu")
LORA: dict[str, Any] = {"lora": {"r": 2, "alpha": 4}}


SAMPLES = [sample(0, [7, 8, 9], [11, 12, 13, 14]), sample(1, [6], [15, 16]), sample(2, [5, 9], [3])]


def inputs() -> Inputs:
    return make_inputs(SAMPLES, pad_id=0)


def from_all_logits(policy: PolicyWithValue, temperature: float) -> list[torch.distributions.Categorical]:
    """Return the distributions of each answer's tokens, one forward pass per answer."""
    found = []
    for one in SAMPLES:
        logits = causal_of(policy.policy)(input_ids=torch.tensor([one.prompt_ids + one.answer_ids])).logits[0]
        found.append(torch.distributions.Categorical(logits=logits[len(one.prompt_ids) - 1 : -1] / temperature))
    return found


def config(folder: Path, model: Path, **changes: Any) -> PPOConfig:
    return settings(folder, model, **changes)


def move(policy: PolicyWithValue, by: float = 0.05) -> None:
    """Change the trained weights, as an update would."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in policy.trunk:
            weight.add_(torch.randn_like(weight) * by)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_all_logits(tmp_path: Path, tiny_model_dir: Path, temperature: float) -> None:
    policy = load_policy(config(tmp_path, tiny_model_dir, temperature=temperature), CPU)
    logprobs_BT, values_BT = policy(inputs())
    for row, (one, expected) in enumerate(zip(SAMPLES, from_all_logits(policy, temperature), strict=True)):
        ids = torch.tensor(one.answer_ids)
        torch.testing.assert_close(logprobs_BT[row, : len(ids)], expected.log_prob(ids), atol=1e-5, rtol=0)
    assert logprobs_BT[1, 2:].tolist() == [0, 0]
    assert torch.equal(values_BT, torch.zeros(3, 4))


@pytest.mark.parametrize("options", [{}, LORA, {"gradient_checkpointing": True}])
def test_packed_rows_give_the_values_and_gradients_of_padded_ones(
    tmp_path: Path, tiny_model_dir: Path, options: dict[str, Any]
) -> None:
    policy = load_policy(config(tmp_path, tiny_model_dir, entropy_coefficient=0.1, temperature=0.7, **options), CPU)
    move(policy)
    torch.nn.init.normal_(policy.value_head.weight)
    found = []
    for kind in ("cai_packed", "sdpa"):
        assert kind == "sdpa" or causal_of(policy.policy).config._attn_implementation == kind
        causal_of(policy.policy).set_attn_implementation(kind)
        tensors = policy(inputs())
        policy.zero_grad()
        torch.stack(tensors).square().sum().backward()
        gradients = {name: weight.grad for name, weight in policy.named_parameters() if weight.requires_grad}
        found.append((tensors, gradients))
    (packed, packed_slopes), (padded, padded_slopes) = found
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=0)
    largest = max(float(slope.abs().max()) for slope in padded_slopes.values() if slope is not None)
    assert largest > 1
    for name, slope in packed_slopes.items():
        torch.testing.assert_close(slope, padded_slopes[name], atol=1e-5 * largest, rtol=0)


@pytest.mark.parametrize("kind", ["the policy", "a named reference"])
def test_no_padding_is_read(tmp_path: Path, tiny_model_dir: Path, kind: str) -> None:
    given = config(tmp_path, tiny_model_dir, reference=str(tiny_model_dir))
    policy = load_policy(given, CPU)
    read: list[int] = []
    scorer: Any = policy if kind == "the policy" else Reference(policy, given, CPU)
    network = causal_of(policy.policy if kind == "the policy" else scorer.network)
    network.get_input_embeddings().register_forward_hook(lambda _, args, __: read.append(args[0].numel()))
    scorer(inputs())
    assert read == [sum(len(one.prompt_ids) + len(one.answer_ids) - 1 for one in SAMPLES)]


def test_a_model_that_cannot_be_packed_reads_padded_rows(tmp_path: Path) -> None:
    folder = tmp_path / "mamba"
    MambaForCausalLM(MambaConfig(vocab_size=97, hidden_size=48, num_hidden_layers=1, state_size=4)).save_pretrained(
        folder
    )
    policy = load_policy(config(tmp_path, folder), CPU)
    logprobs_BT, _ = policy(inputs())
    for row, (one, expected) in enumerate(zip(SAMPLES, from_all_logits(policy, 1.0), strict=True)):
        ids = torch.tensor(one.answer_ids)
        torch.testing.assert_close(logprobs_BT[row, : len(ids)], expected.log_prob(ids), atol=1e-5, rtol=0)


def test_neighbours_change_nothing(tmp_path: Path, tiny_model_dir: Path) -> None:
    policy = load_policy(config(tmp_path, tiny_model_dir), CPU)
    torch.nn.init.normal_(policy.value_head.weight)
    together = policy(inputs())
    alone = policy(make_inputs([sample(1, [6], [15, 16])], pad_id=0))
    for both, one in zip(together, alone, strict=True):
        torch.testing.assert_close(both[1, :2], one[0], atol=1e-5, rtol=0)


def test_checkpointed_gradients_are_the_same(tmp_path: Path, tiny_model_dir: Path) -> None:
    found = []
    for on in (False, True):
        policy = load_policy(config(tmp_path, tiny_model_dir, gradient_checkpointing=on), CPU)
        inside = causal_of(policy.policy).modules()
        assert any(getattr(module, "gradient_checkpointing", False) for module in inside) == on
        logprobs_BT, _ = policy(inputs())
        logprobs_BT.sum().backward()
        found.append([weight.grad for weight in policy.trunk])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True) if a is not None and b is not None)


@pytest.mark.parametrize("options", [{}, LORA])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_reference_is_the_start_and_stays_there(
    tmp_path: Path, tiny_model_dir: Path, options: dict[str, Any], precision: str
) -> None:
    changes = {**options, "precision": precision}
    policy = load_policy(config(tmp_path, tiny_model_dir, **changes), CPU)
    reference = Reference(policy, config(tmp_path, tiny_model_dir, **changes), CPU)
    with torch.no_grad():
        start, _ = policy(inputs())
        # To the bit, so the KL of the first step is 0 and no rounding.
        assert torch.equal(reference(inputs()), start)
        move(policy)
        assert not torch.equal(policy(inputs())[0], start)
        assert torch.equal(reference(inputs()), start)


def test_another_reference_is_read_from_its_folder(tmp_path: Path, tiny_model_dir: Path) -> None:
    other = tiny.llama()
    torch.nn.init.normal_(other.model.norm.weight)
    other.save_pretrained(tmp_path / "other")
    given = config(tmp_path, tiny_model_dir, reference=str(tmp_path / "other"), **LORA)
    policy = load_policy(given, CPU)
    found = Reference(policy, given, CPU)(inputs())
    with torch.no_grad():
        expected, _ = PolicyWithValue(other)(inputs())
    torch.testing.assert_close(found, expected)


def test_a_reference_with_another_vocabulary_is_refused(tmp_path: Path, tiny_model_dir: Path) -> None:
    tiny.llama(vocab_size=64, eos_token_id=2).save_pretrained(tmp_path / "other")
    given = config(tmp_path, tiny_model_dir, reference=str(tmp_path / "other"))
    with pytest.raises(InputError, match="another vocabulary"):
        Reference(load_policy(given, CPU), given, CPU)


def test_logits_that_are_more_than_product_and_cap_are_refused_by_name(tmp_path: Path) -> None:
    scaled: Any = GraniteForCausalLM(
        GraniteConfig(
            vocab_size=97, hidden_size=48, intermediate_size=64, num_hidden_layers=1, num_attention_heads=6,
            logits_scaling=2.0, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip
    scaled.save_pretrained(tmp_path / "scaled")
    with pytest.raises(InputError, match=r"scaled: .* and a soft cap: its config has 'logits_scaling'; use"):
        load_causal(str(tmp_path / "scaled"), torch.float32, CPU)


@pytest.mark.parametrize("packs", [True, False])
def test_a_model_that_reads_otherwise_than_its_own_forward_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packs: bool
) -> None:
    model = tiny.llama()
    model.config.final_logit_softcapping = 3.0  # it says so and doesn't: Llama's forward knows of no cap
    model.save_pretrained(tmp_path / "model")
    if not packs:
        monkeypatch.setattr("cai.train.ppo.policy.packs", lambda model: False)
    with pytest.raises(InputError, match=r"what PPO reads is off by \d"):
        load_causal(str(tmp_path / "model"), torch.float32, CPU)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_adapter_is_merged_into_the_whole_model(tmp_path: Path, tiny_model_dir: Path, precision: str) -> None:
    given = config(tmp_path, tiny_model_dir, precision=precision, **LORA)
    policy = load_policy(given, CPU)
    assert all("lora_" in name for name, weight in policy.policy.named_parameters() if weight.requires_grad)
    move(policy)
    whole = trained_anew(policy, given).merge_and_unload()
    whole.save_pretrained(tmp_path / "merged")
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert read.dtype == torch.float32
    with torch.no_grad():
        expected, found = policy(inputs())[0], PolicyWithValue(read)(inputs())[0]
    torch.testing.assert_close(found, expected, atol=1e-4 if precision == "fp32" else 0.5, rtol=0)


def test_sampling_follows_the_policy(tmp_path: Path, tiny_model_dir: Path) -> None:
    given = config(tmp_path, tiny_model_dir, precision="bf16")
    policy = load_policy(given, CPU)
    actor = Actor(policy, given)
    assert actor.is_copy
    move(policy)
    actor.refresh()
    for mine, its in zip(actor.network.parameters(), causal_of(policy.policy).parameters(), strict=True):
        assert torch.equal(mine, its.to(torch.bfloat16))


@pytest.mark.parametrize("changes", [{"precision": "fp32"}, {"precision": "bf16", **LORA}])
def test_sampling_in_place_makes_no_copy(tmp_path: Path, tiny_model_dir: Path, changes: dict[str, Any]) -> None:
    given = config(tmp_path, tiny_model_dir, **changes)
    policy = load_policy(given, CPU)
    assert Actor(policy, given).network is policy.policy


def test_dropout_is_taken_out() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5), tiny.llama(attention_dropout=0.3))
    without_dropout(model)
    assert model[1].p == 0.0
    assert all(getattr(module, "attention_dropout", 0.0) == 0.0 for module in model.modules())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_entropy_is_that_of_all_logits_and_comes_with_gradients_only(
    tmp_path: Path, tiny_model_dir: Path, temperature: float
) -> None:
    policy = load_policy(config(tmp_path, tiny_model_dir, entropy_coefficient=0.1, temperature=temperature), CPU)
    _, _, entropy_BT = policy(inputs())
    for row, expected in enumerate(from_all_logits(policy, temperature)):
        entropy_T = expected.entropy()
        torch.testing.assert_close(entropy_BT[row, : len(entropy_T)], entropy_T, atol=1e-5, rtol=0)
    with torch.no_grad():
        assert len(policy(inputs())) == 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_reference_that_follows_is_the_mean_of_where_the_policy_was(
    tmp_path: Path, tiny_model_dir: Path, precision: str
) -> None:
    settings = config(tmp_path, tiny_model_dir, reference_ema=0.9, precision=precision)
    policy = load_policy(settings, CPU)
    reference = Reference(policy, settings, CPU)
    start = next(iter(reference.network.parameters())).clone()
    move(policy)
    reference.follow()
    now = next(iter(causal_of(policy.policy).parameters()))
    torch.testing.assert_close(next(iter(reference.network.parameters())), 0.9 * start + 0.1 * now)
    assert {weight.dtype for weight in reference.network.parameters()} == {torch.float32}
    still = Reference(policy, config(tmp_path, tiny_model_dir), CPU)
    before = next(iter(still.network.parameters())).clone()
    move(policy)
    still.follow()
    assert torch.equal(next(iter(still.network.parameters())), before)


def saved_preference_model(folder: Path, **changes: Any) -> Any:
    model: Any = LlamaForSequenceClassification(tiny.config(**{"num_labels": 1, **changes})).eval()
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return model


def test_values_begin_as_a_preference_models_scores(tmp_path: Path) -> None:
    """A preference model with the policy's own trunk: each value is the score of all that is before its token."""
    scorer = saved_preference_model(tmp_path / "pm")
    policy_alone = tiny.llama()
    policy_alone.model.load_state_dict(scorer.model.state_dict())
    policy_alone.save_pretrained(tmp_path / "policy")
    policy = load_policy(config(tmp_path, tmp_path / "policy", value_init=tmp_path / "pm"), CPU)
    _, values_BT = policy(inputs())
    for row, one in enumerate(SAMPLES):
        for t in range(len(one.answer_ids)):
            before = torch.tensor([one.prompt_ids + one.answer_ids[:t]])
            wanted = scorer(input_ids=before).logits[0, 0]
            torch.testing.assert_close(values_BT[row, t], wanted, atol=1e-5, rtol=1e-5)
    assert float(values_BT.detach().std()) > 0.1


def test_values_begin_as_the_named_one_of_several_scores(tmp_path: Path, tiny_model_dir: Path) -> None:
    names = {0: "harmless", 1: "helpful"}
    scorer = saved_preference_model(
        tmp_path / "pm", num_labels=2, id2label=names, label2id={v: k for k, v in names.items()}
    )
    settings = config(tmp_path, tiny_model_dir, value_init=tmp_path / "pm", value_init_head="helpful")
    assert torch.equal(load_policy(settings, CPU).value_head.weight[0], scorer.score.weight[1])


def test_a_preference_model_of_another_width_is_refused_as_values(tmp_path: Path, tiny_model_dir: Path) -> None:
    saved_preference_model(tmp_path / "pm", hidden_size=96)
    with pytest.raises(InputError, match=r"pm: its score reads 96 numbers, and the policy's states have 48"):
        load_policy(config(tmp_path, tiny_model_dir, value_init=tmp_path / "pm"), CPU)
