"""What is read of packed batches, and which models are refused."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForSequenceClassification,
    BloomConfig,
    Gemma2Config,
    GPTJConfig,
    GraniteConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    RecurrentGemmaConfig,
)

from cai.errors import InputError
from cai.train import readout
from cai.train.packing import pack_ends, pack_tokens
from cai.train.readout import answer_logprobs, answer_scores, answer_sums, evaluating, packs, placed, use_packing
from tests.engines import tiny
from tests.train.test_packed_attention import ROWS, SHAPE, alone, made

REFUSED: dict[str, tuple[Any, str]] = {
    "another model's soft cap": (RecurrentGemmaConfig(**SHAPE), "logits_soft_cap"),
    "a scale": (GraniteConfig(**SHAPE, logits_scaling=2.0), "logits_scaling"),
    "chunks": (
        Llama4TextConfig(**SHAPE, head_dim=8, attention_chunk_size=4, num_local_experts=2, intermediate_size_mlp=64),
        "attention_chunk_size",
    ),
    "a bias": (GPTJConfig(vocab_size=97, n_embd=48, n_layer=1, n_head=6, rotary_dim=4), "output layer has a bias"),
    "a recurrent model": (MambaConfig(vocab_size=97, hidden_size=48, num_hidden_layers=1, state_size=4), "Mamba"),
    "biases by distance": (BloomConfig(vocab_size=97, hidden_size=48, n_layer=1, n_head=6), "Bloom"),
}


def test_a_model_packs_or_stays_as_it_is() -> None:
    model, other = tiny.llama(), made(REFUSED["a recurrent model"][0])
    before = other.config._attn_implementation
    assert (packs(model), packs(other)) == (True, False)
    assert (model.config._attn_implementation, other.config._attn_implementation) == ("cai_packed", before)


@pytest.mark.parametrize("why", REFUSED)
def test_models_that_packing_would_get_wrong_are_refused_by_name(why: str) -> None:
    config, said = REFUSED[why]
    model = made(config)
    with pytest.raises(InputError, match=rf"my/model: .*cannot be trained on packed rows: .*{said}|{said}.*packed"):
        use_packing(model, "my/model")
    assert model.config._attn_implementation != "cai_packed"


def test_another_result_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.llama()
    monkeypatch.setattr(readout, "_together", lambda model: readout.tried_alone(model) + 0.1)
    with pytest.raises(InputError, match=r"a packed batch gives other results, by 1\.0e-01"):
        use_packing(model, "tiny")
    assert model.config._attn_implementation == "sdpa"


def test_sums_are_of_each_answer() -> None:
    model = made(LlamaConfig(**SHAPE))
    wanted = alone(model, ROWS).split([8, 2, 1, 7, 3, 1, 4])
    use_packing(model, "llama")
    batch = placed(pack_tokens(ROWS), torch.device("cpu"))
    torch.testing.assert_close(answer_sums(model, batch), torch.stack([part.sum() for part in wanted]))


def test_scores_are_those_at_the_end_of_one_pass_each() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = AutoModelForSequenceClassification.from_config(LlamaConfig(**SHAPE | {"num_labels": 1}))
    model.eval()
    states = [
        model.model(torch.tensor([[*prompt, *answer]])).last_hidden_state[0, -1]
        for prompt, answers in ROWS
        for answer in answers
    ]
    wanted = torch.stack([model.score(state)[0] for state in states])
    use_packing(model, "llama")
    torch.testing.assert_close(answer_scores(model, pack_ends(ROWS)), wanted, atol=1e-5, rtol=1e-5)


def test_the_output_layer_is_itself_again() -> None:
    model = tiny.llama()
    use_packing(model, "tiny")
    with pytest.raises(RuntimeError):
        answer_logprobs(model, {**pack_tokens(ROWS), "answer_ids": torch.tensor([10**6] * 26)})
    assert model(input_ids=torch.tensor([[5, 6]])).logits.shape == (1, 2, model.config.vocab_size)


@pytest.mark.parametrize("capped", [False, True])
def test_no_tensor_of_all_positions_by_vocabulary_is_made(capped: bool) -> None:
    """The largest thing beside the weights is a tile, however many tokens there are."""
    model = tiny.llama(vocab_size=20_000)
    if capped:
        more = {"head_dim": 8, "attn_logit_softcapping": None, "final_logit_softcapping": 3.0}
        model = made(Gemma2Config(**SHAPE | {"vocab_size": 20_000, "max_position_embeddings": 4096} | more))
    use_packing(model, "tiny")
    batch = pack_tokens([([5] * 10, [[6] * 1000, [7] * 1000])])
    largest = 0

    dispatch: Any = TorchDispatchMode

    class Watch(dispatch):  # type: ignore[misc]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple) else (out,):
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return out

    with Watch():
        torch.autograd.backward(answer_logprobs(model, batch).sum())
    assert 256 * 20_000 <= largest < 2 * 256 * 20_000


def test_a_capped_model_is_itself_again() -> None:
    model = made(Gemma2Config(**SHAPE, head_dim=8, final_logit_softcapping=3.0))
    use_packing(model, "gemma2")
    answer_logprobs(model, pack_tokens(ROWS))
    assert model.config.final_logit_softcapping == 3.0
    assert float(model(input_ids=torch.tensor([[5, 6]])).logits.abs().max().detach()) <= 3.0


def test_dropout_is_off_for_a_while() -> None:
    model = tiny.llama(attention_dropout=0.5)
    model.train()
    use_packing(model, "tiny")
    batch = pack_tokens(ROWS)
    assert not torch.equal(answer_sums(model, batch), answer_sums(model, batch))
    with evaluating(model):
        assert torch.equal(answer_sums(model, batch), answer_sums(model, batch))
    assert all(module.training for module in model.modules())


SHARDED = """
import os
import sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from cai.train.packing import pack_tokens
from cai.train.readout import answer_logprobs, use_packing
from tests.engines import tiny
from tests.train.test_packed_attention import ROWS
torch.set_num_threads(1)
dist.init_process_group("gloo")
whole, sharded = (use_packing(tiny.llama(), "tiny").train() for _ in range(2))
sharded.activation_checkpointing_enable()
mesh = init_device_mesh("cpu", (2,))
for layer in sharded.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(sharded, mesh=mesh)
found = []
for model in (whole, sharded):
    found.append(answer_logprobs(model, pack_tokens(ROWS)))
    found[-1].sum().backward()
torch.testing.assert_close(found[1], found[0])
wanted = {name: weight.grad for name, weight in whole.named_parameters()}
got = {name: weight.grad.full_tensor() for name, weight in sharded.named_parameters()}
assert max(float(gradient.abs().max()) for gradient in wanted.values()) > 1
torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
dist.barrier()
sys.stderr.flush()
os._exit(0)  # gloo's threads can abort a process that ends in the usual way
"""


@pytest.mark.slow
def test_a_model_in_pieces_gives_the_same(tmp_path: Path) -> None:
    """FSDP2 over two processes: the output layer's weights are whole inside the forward, where they are used."""
    (tmp_path / "sharded.py").write_text(SHARDED)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(tmp_path / "sharded.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
