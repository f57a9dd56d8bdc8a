"""Supervised finetuning on revisions and helpful answers (Bai et al. 2022, section 3.1).

The loss is on the assistant's last turn and its end of turn, averaged over tokens. TRL's trainer is not used: its
loop keeps neither our order of rows nor an exact resume, and it projects the vocabulary over prompts and padding.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import AutoModelForCausalLM

from cai.engines.embedded import resolve_model
from cai.engines.loading import read_tokenizer
from cai.engines.render import Renderer
from cai.train.checks import findings, measure_chats, rows_of
from cai.train.common import alone
from cai.train.configs import SFTConfig
from cai.train.data import Example, chats_of, percentiles, training_order
from cai.train.hf import CountedTrainer, Rows, finish, fit, prepare_process, training_arguments
from cai.train.loading import load_packed, with_adapter
from cai.train.packing import pack_tokens
from cai.train.preflight import refuse_or_tell, tell_estimate
from cai.train.readout import answer_logprobs


class SFTTrainer(CountedTrainer):
    """Maximises the likelihood of answers."""

    def units(self, batch: Mapping[str, Any]) -> int:
        """Count the answers' tokens."""
        return len(batch["answer_ids"])

    def loss_sum(self, model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the negative log-probabilities of the answers' tokens."""
        return -answer_logprobs(model, batch).sum(), {}


@alone
def run_sft(config: SFTConfig) -> None:
    """Finetune `config.model` on `config.data` and write the output folder of `cai.train.common`.

    Does nothing when the folder is finished already. Raises InputError for bad rows before the model is loaded,
    StorageError when another run has the folder, TrainingError when a loss is not finite.
    """
    prepare_process(config.seed)
    path = resolve_model(config.model)
    tokenizer: Any = read_tokenizer(config.model)
    renderer = Renderer(tokenizer)
    items = measure_chats(rows_of(config.data), renderer)
    examples, dropped = chats_of(items, config.data, max_length=config.max_length)
    refuse_or_tell(findings(items, config.max_length, template=tokenizer.chat_template is not None))
    lengths = [len(example) for example in examples]
    order = training_order(lengths, epochs=config.epochs, batch_size=config.batch_size, seed=config.seed)
    args = training_arguments(config, len(order))
    tell_estimate(config, path, [example.row for example in examples], order, args)
    model = load_packed(AutoModelForCausalLM, path, config, args.device)
    trainer = SFTTrainer(
        model=with_adapter(model, config, task="CAUSAL_LM"),
        args=args,
        train_dataset=Rows(examples, order),
        data_collator=collate,
    )
    result = fit(trainer, config, label="sft")
    about = {"rows": len(examples), "dropped": dict(dropped), "lengths": percentiles(lengths)}
    finish(trainer, tokenizer, config, {**result, **about})


def collate(rows: Sequence[Example]) -> dict[str, Any]:
    """Return a packed batch that predicts the answers, and the rows' names."""
    return {**pack_tokens([row.row for row in rows]), "names": [row.name for row in rows]}
