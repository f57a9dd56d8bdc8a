"""What the three trainers over fixed rows share: `transformers.Trainer` with our counting, logging and checkpoints.

Only public hooks are used: `compute_loss`, `get_batch_samples`, `log`, callbacks. Three things differ from the default:

- the loss is a sum divided by the global count of what it sums over (tokens, pairs), so that neither accumulation nor
  the number of processes changes it;
- the order of rows comes with the data (`cai.train.data.training_order`), for all epochs at once, so a resume is a
  count of rows and nothing else;
- a checkpoint counts only when its marker is there, which is written last (`cai.train.checkpoints`).
"""

import ctypes
import math
import os
import resource
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils import gather_object
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cai.errors import InputError, Problem, StorageError, TrainingError, disk_refused
from cai.processes import is_main, quiet_libraries, wait_for_all, world
from cai.progress import Progress
from cai.storage import atomic_write_json, storing
from cai.train.checkpoints import complete, set_damaged_aside
from cai.train.checkpoints import newest_checkpoint as newest_checkpoint
from cai.train.common import RESULT, MetricsLog, keep_trackers_local, save_adapted, save_model, wants_bf16
from cai.train.configs import EpochsConfig, TrainConfig
from cai.train.diagnosis import DiagnosisCallback
from cai.train.loading import adapted_anew, check_extras
from cai.train.made_under import constitutions_of
from cai.train.same_run import SameRun

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of glibc's `mallopt` (malloc.h)."""

OPTIMIZERS = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_8bit", "paged_adamw_8bit": "paged_adamw_8bit"}
"""The names that Transformers gives them."""


class Rows(Dataset[Any]):
    """Rows in their training order: item i is what step i trains on."""

    def __init__(self, rows: Sequence[Any], order: Sequence[int]) -> None:
        """Hold the rows and the order over all epochs."""
        self._rows, self._order = rows, order

    def __len__(self) -> int:
        """Return the number of rows over all epochs."""
        return len(self._order)

    def __getitem__(self, index: int) -> Any:
        """Return the row that comes at a place in the order."""
        return self._rows[self._order[index]]


class CountedTrainer(Trainer):
    """A Trainer whose subclasses give a loss as a sum, and say over how many units it is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what Trainer takes; raises InputError where accelerate was asked for FSDP and has left it out."""
        super().__init__(*args, **kwargs)
        if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and not self.is_fsdp_enabled:
            problem = "accelerate cuts no model into pieces on a CPU; each process would hold all of it"
            raise InputError(Problem("--use_fsdp", 0, 0, problem, "leave FSDP out here, or start on GPUs"))
        # compute_loss divides by the global count itself, so Trainer must not divide by the accumulation steps again.
        self.loss_is_scaled_for_ga = True
        self._sums: dict[str, float] = {}
        self._names: list[str] = []
        self._not_finite: list[str] = []
        self.tokens = 0
        self.remove_callback(PrinterCallback)
        self.add_callback(_RefusesNonFinite(self))

    def units(self, batch: Mapping[str, Any]) -> int:
        """Return how many units (tokens, pairs) the loss of a batch sums over."""
        raise NotImplementedError

    def loss_sum(self, model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the summed loss of a batch, and other sums over its units to report as means."""
        raise NotImplementedError

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Return the batches of one optimizer step, and the count of units in them over all processes."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._names = [name for sample in samples for name in sample["names"]]
        self.tokens += sum(sample["input_ids"].numel() for sample in samples)
        count = torch.tensor(float(sum(self.units(sample) for sample in samples)), device=device)
        return samples, self.accelerator.reduce(count, reduction="sum")

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return this process's share of the mean loss over all units of the step."""
        total, sums = self.loss_sum(model, inputs)
        if not torch.isfinite(total):
            self._not_finite += inputs["names"]
        if self.moves_in_backward:
            self.check_step(gradients=False)
        for name, value in {"loss": total, "units": torch.tensor(float(self.units(inputs))), **sums}.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.detach())
        # Processes average their gradients; the count is over all of them.
        return total * (self.accelerator.num_processes / num_items_in_batch)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Add a batch's gradient; raises TrainingError, in every process alike, for one that DeepSpeed has refused."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.is_deepspeed_enabled and self.accelerator.sync_gradients:
            engine: Any = self.model_wrapped
            if not engine.was_step_applied():
                raise self._refusal("gradient", self._names)
        return loss

    @property
    def moves_in_backward(self) -> bool:
        """Whether the last backward pass of a step moves the weights, as DeepSpeed's does unless a gradient is bad."""
        return bool(self.is_deepspeed_enabled)

    def check_step(self, *, gradients: bool = True) -> None:
        """Raise TrainingError, in every process alike, when a loss or (with `gradients`) a gradient is not finite.

        Called before the optimizer moves a weight. A process that left alone would let the others wait for it.
        """
        broken = gradients and self._has_broken_gradient()
        found = torch.tensor([float(bool(self._not_finite)), float(broken)], device=self.args.device)
        losses, broken_somewhere = self.accelerator.reduce(found, reduction="sum").tolist()
        if not losses and not broken_somewhere:
            return
        raise self._refusal("loss", self._not_finite) if losses else self._refusal("gradient", self._names)

    def _refusal(self, what: str, names: list[str]) -> TrainingError:
        """Return the error that names the rows of all processes."""
        rows = ", ".join(gather_object(names))
        return TrainingError(
            f"the {what} is not finite at step {self.state.global_step + 1}; rows {rows}; no weight was changed"
        )

    def _has_broken_gradient(self) -> bool:
        model: Any = self.model
        pieces = [_here(weight.grad) for weight in model.parameters() if weight.grad is not None]
        sums = [piece.sum().float() for piece in pieces]
        return bool(sums) and not bool(torch.isfinite(torch.stack(sums)).all())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Put the means over all units since the last log in the place of Trainer's running loss."""
        if "loss" in logs and self._sums:
            names = sorted(self._sums)
            values = torch.tensor([self._sums[name] for name in names], device=self.args.device)
            totals = dict(zip(names, self.accelerator.reduce(values, reduction="sum").tolist(), strict=True))
            count = max(1.0, totals.pop("units"))
            logs = {**logs, **{name: value / count for name, value in totals.items()}}
            self._sums = {}
        super().log(logs, start_time)


def _here(gradient: Tensor) -> Tensor:
    """Return the piece of a sharded gradient that this process has; of another the whole."""
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


class _RefusesNonFinite(TrainerCallback):
    """Stops before the optimizer's step when the step is not finite."""

    def __init__(self, trainer: CountedTrainer) -> None:
        self._trainer = trainer

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Look at the gradients, after all of them are summed and before they are used."""
        self._trainer.check_step()


class Watch(TrainerCallback):
    """Writes metrics.jsonl, moves the progress line, and marks checkpoints as whole."""

    def __init__(self, out: Path, label: str, total: int, done: int, run: SameRun) -> None:
        """Begin after `done` steps of `total`; `run` is what checkpoints say of it."""
        self._run = run
        self._log = MetricsLog(out / "metrics.jsonl", main=is_main(), resume_step=done)
        self._bar = Progress(label, total, "steps", done=done, quiet=not is_main())

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Keep one line per logged step."""
        if not logs or "loss" not in logs:
            return
        for name, what in (("loss", "loss"), ("grad_norm", "gradient")):  # finite each, too large to be summed
            if not math.isfinite(float(logs.get(name, 0.0))):
                raise TrainingError(
                    f"the {what} is not finite at step {state.global_step}; the last checkpoint is good"
                )
        found = self.readings(logs)
        self._log.log(state.global_step, found)
        self._bar.advance(1, note=self.note(found))

    def readings(self, logs: Mapping[str, float]) -> dict[str, float]:
        """Return what metrics.jsonl keeps of what Trainer logs."""
        return {name: float(value) for name, value in logs.items() if name != "epoch"}

    def note(self, found: Mapping[str, float]) -> str:
        """Return what the progress line says."""
        return f"loss {found['loss']:.3f}"

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Mark the checkpoint just written, when every process has put its part into it, and remove older ones."""
        wait_for_all()
        if is_main():
            checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            with storing(checkpoint):
                self._run.write(checkpoint)
            complete(checkpoint)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """End the progress line."""
        self._bar.close()


def prepare_process(seed: int) -> None:
    """Seed everything and keep libraries from writing on the terminal. Called before any weight is made."""
    quiet_libraries()
    keep_freed_memory()
    # FSDP would load weights in the first process alone, but all try the model and share the reference's work.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    transformers.set_seed(seed)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def keep_freed_memory() -> None:
    """Let the C library keep what tensors free, for the next ones: a third less time per step on a CPU.

    glibc gives every large block back to the system at once, and each new one is then filled with zeros page by page.
    """
    if not sys.platform.startswith("linux") or torch.cuda.is_available():
        return
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is not None:
        tune(M_MMAP_MAX, 0)
        tune(M_TRIM_THRESHOLD, 2**31 - 1)
        tune(M_TOP_PAD, 1 << 28)


def training_arguments(config: EpochsConfig, rows: int) -> TrainingArguments:
    """Return the Trainer's arguments, and look after the checkpoints that it may go on from.

    Raises InputError when the batch does not divide among the processes.
    """
    keep_trackers_local(config)
    check_extras(config)
    set_damaged_aside(config.out / "checkpoints")
    share, left = divmod(min(config.batch_size, rows), world())
    if left or share == 0:
        problem = f"a batch of {min(config.batch_size, rows)} rows can't be shared by {world()} processes"
        raise InputError(Problem("batch_size", 0, 0, problem, f"make it a multiple of {world()}"))
    micro = max(size for size in range(1, min(config.micro_batch, share) + 1) if share % size == 0)
    steps = max(1, rows // max(1, config.batch_size))
    bf16 = wants_bf16(config.precision)
    return TrainingArguments(
        output_dir=str(config.out / "checkpoints"),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=share // micro,
        num_train_epochs=1,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        lr_scheduler_type="constant_with_warmup" if config.schedule == "constant" else config.schedule,
        warmup_steps=int(config.warmup * steps),
        train_sampling_strategy="sequential",
        bf16=bf16,
        optim=OPTIMIZERS[config.optimizer],
        use_liger_kernel=config.liger,
        liger_kernel_config={"fused_linear_cross_entropy": False},  # the loss is ours
        use_cpu=not torch.cuda.is_available(),
        activation_checkpointing=config.gradient_checkpointing,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps" if config.save_every else "no",
        save_steps=config.save_every or 500,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        dataloader_drop_last=False,
        disable_tqdm=True,
        report_to=list(config.report_to) or "none",
        run_name=config.out.name,
        project="cai",
        seed=config.seed,
        data_seed=config.seed,
        ddp_find_unused_parameters=False,
    )


def fit(trainer: CountedTrainer, config: EpochsConfig, *, label: str) -> dict[str, Any]:
    """Train to the end, from the newest whole checkpoint if there is one; return what to put into result.json.

    Raises InputError when that is of a run with other settings or data.
    """
    checkpoint, run = newest_checkpoint(config.out / "checkpoints"), SameRun(config, config.data)
    if checkpoint is not None:
        run.refuse_another(checkpoint)
    done = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    args = trainer.args
    per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * world()
    total = math.ceil(len(trainer.train_dataset) / per_step)  # type: ignore[arg-type]
    trainer.add_callback(Watch(config.out, label, total, done, run))
    trainer.add_callback(DiagnosisCallback())
    start = time.monotonic()
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except Exception as error:
        if disk_refused(error):
            raise StorageError(
                f"{config.out / 'checkpoints'}: no room for a checkpoint; the ones before are kept: free some room, or "
                "set save_every=0, and give the same command again"
            ) from error
        raise
    seconds = time.monotonic() - start
    tokens = trainer.accelerator.reduce(torch.tensor(float(trainer.tokens), device=args.device), reduction="sum")
    logged = [row for row in trainer.state.log_history if "loss" in row]
    return {
        "steps": trainer.state.global_step,
        "resumed_at": done,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(float(tokens) / seconds),
        "last": {name: value for name, value in logged[-1].items() if name not in ("epoch", "step")} if logged else {},
    }


def finish(trainer: CountedTrainer, tokenizer: Any, config: EpochsConfig, result: dict[str, Any]) -> None:
    """Merge an adapter, save the model, write result.json, and give the checkpoints' room back."""
    trainer.accelerator.wait_for_everyone()
    save_trained(trainer, tokenizer, config, constitutions=constitutions_of(config.data, [config.model]))
    if is_main():
        atomic_write_json(config.out / RESULT, {**result, "peak_memory_mb": peak_memory_mb()})
        shutil.rmtree(config.out / "checkpoints", ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def save_trained(trainer: Trainer, tokenizer: Any, config: TrainConfig, *, constitutions: list[str]) -> None:
    """Save what was trained: the model, and an adapter also apart. For all processes."""
    # Every process takes part: where weights are sharded (FSDP, ZeRO-3) each has a piece.
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    model = trainer.accelerator.unwrap_model(trainer.model)
    if is_main() and config.lora is not None:
        save_adapted(adapted_anew(model, weights), tokenizer, config.out, constitutions=constitutions)
    elif is_main():
        save_model(model, tokenizer, config.out / "model", constitutions=constitutions, weights=weights)


def peak_memory_mb() -> int:
    """Return the most memory that this process has held, in MB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used // 1024 if sys.platform != "darwin" else used // 1048576
