"""The loop around a step: accumulate, average, clip, log, validate, checkpoint, stop."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from vader_core.assembly.parts import Assembly
from vader_core.device import out_of_memory_named, peak_gib, reset_peak
from vader_core.errors import VaderError
from vader_core.evaluation.comparison import as_json, evaluate
from vader_core.evaluation.validation import score_pairs, validation_pairs, write_samples
from vader_core.evaluation.watch import Verdict, Watch, statistics
from vader_core.lora.adapter import adapter_dropout, adapter_of, adapter_off, adapter_parameters
from vader_core.lora.formats import Adapter
from vader_core.method.step import Kept, StepResult, reward_gradient_step
from vader_core.randomness import Randomness, derive_seed
from vader_core.run.checkpoint import Checkpoint, keep_best, prune, write_checkpoint
from vader_core.run.directory import Run
from vader_core.run.tracking import Listener, Silence, flattened
from vader_core.training.optimizer import learning_rate, make_optimizer
from vader_core.training.signals import StoppedError

#: An alarm under ``guard: adapt`` goes back to the best adapter and multiplies the learning rate by this.
ADAPT_FACTOR = 0.5


class Trainer:
    """Trains an adapter and keeps the run directory true.

    Args:
        assembly: Loaded parts with the adapter attached.
        run: The run directory on the main process; ``None`` elsewhere (and where nothing is to be written).
        accelerator: From :func:`make_accelerator`.
        listener: Hears of progress.
    """

    def __init__(
        self, assembly: Assembly, run: Run | None, accelerator: Accelerator, listener: Listener | None = None
    ) -> None:
        self.assembly = assembly
        self.run = run
        self.accelerator = accelerator
        self.listener = listener or Silence()
        self.config = assembly.config.trainer
        self.parameters = adapter_parameters(assembly.backbone.denoiser)
        self.optimizer = accelerator.prepare_optimizer(
            make_optimizer(list(self.parameters.values()), self.config), device_placement=False
        )
        self.watch = Watch(self.config.monitor_limit)
        #: The best adapter so far, to go back to; kept where the guard adapts.
        self.best: dict[str, Tensor] = {}
        self.average: dict[str, Tensor] | None = None
        if self.config.ema is not None:
            self.average = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.step = 0
        self.reward_queries = 0
        self.train_seconds = 0.0
        self.skipped = 0
        self.nonfinite_in_a_row = 0
        self.lr_factor = 1.0
        self.last_checkpoint: str | None = None
        self._signum: int | None = None

    # -- the run -----------------------------------------------------------------------------------------

    def fit(self) -> dict[str, Any]:
        """Train to the last step, validate, evaluate, and return the summary.

        Raises:
            StoppedError: A signal asked to stop; the checkpoint is written.
            VaderError: Too many non-finite steps in a row.
        """
        with self._signals():
            if self.step == 0:
                self._validate()
            while self.step < self.config.max_steps:
                self._train_step()
                stop = self._after_step()
                if stop:
                    break
            self._save()
        return self._finish()

    def _after_step(self) -> bool:
        """Validate and checkpoint where due; whether the guard stops the run."""
        due = self.config.validate_every and self.step % self.config.validate_every == 0
        last = self.step == self.config.max_steps
        alarms = self._validate() if due or last else ()
        if alarms and self.config.guard == "adapt":
            self._adapt()
        if self.config.checkpoint_every and self.step % self.config.checkpoint_every == 0:
            self._save()
        if self._asked_to_stop():
            self._save()
            raise StoppedError(self._signum or signal.SIGTERM)
        if alarms and self.config.guard == "stop":
            self._say(
                f"guard: stopped at step {self.step}; the best adapter is of step {self.watch.best_step}"
            )
            return True
        return False

    def _adapt(self) -> None:
        """Go back to the best adapter, with a lower learning rate and a fresh optimizer.

        A lower rate alone would not bring back what is lost.
        """
        self.lr_factor *= ADAPT_FACTOR
        self._set(self.best)
        if self.average is not None:
            self.average = {name: value.clone() for name, value in self.best.items()}
        self.optimizer.optimizer.state.clear()
        self._say(
            f"guard: back to the adapter of step {self.watch.best_step}; the learning rate is now "
            f"{self.lr_factor:g} of its schedule"
        )

    # -- one step ----------------------------------------------------------------------------------------

    def _train_step(self) -> None:
        begun = time.perf_counter()
        reset_peak(self.accelerator.device)
        rate = learning_rate(self.config, self.step) * self.lr_factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        results, loss, norm = self._one_update(0, [None] * self.config.accumulate)
        queries = sum(result.reward_queries for result in results)
        skipped = norm is None
        for update in range(1, self.config.inner_updates):
            if skipped:
                break
            again, _, further = self._one_update(update, [result.kept for result in results])
            queries += sum(result.reward_queries for result in again)
            skipped = further is None
        self.step += 1
        seconds = time.perf_counter() - begun
        self.train_seconds += seconds
        self.reward_queries += queries * self.accelerator.num_processes
        self._record(
            {
                "kind": "train",
                "step": self.step,
                "loss": float(loss),
                "grad_norm": float("nan") if norm is None else norm,
                "learning_rate": rate,
                "seconds": seconds,
                "memory_gib": peak_gib(self.accelerator.device),
                "rewards": self._mean_scores(results),
                "skipped": skipped,
                "reward_queries": self.reward_queries,
            }
        )
        self._count_nonfinite(skipped)

    def _one_update(
        self, update: int, kept: list[Kept | None]
    ) -> tuple[list[StepResult], Tensor, float | None]:
        """One optimizer update, from fresh rollouts or from kept ones; its loss and the gradient's norm."""
        self.optimizer.zero_grad(set_to_none=True)
        results = [self._micro_step(micro, update, rollout) for micro, rollout in enumerate(kept)]
        loss = self._mean(torch.stack([result.loss.float() for result in results]).mean())
        return results, loss, self._update(bool(torch.isfinite(loss)))

    def _micro_step(self, micro: int, update: int, kept: Kept | None) -> StepResult:
        indices = self._sample_indices(micro)
        rng = Randomness(self.config.seed, self.step, micro, tuple(indices))
        denoiser = self.assembly.backbone.denoiser
        again = ("inner update", update) if update else ()
        rng = rng.within(*again)
        dropout_seed = derive_seed(self.config.seed, "dropout", *again, *indices)
        with out_of_memory_named("training"), adapter_dropout(denoiser, dropout_seed):
            return reward_gradient_step(
                self.assembly.backbone,
                self.assembly.rewards,
                self.assembly.draw_prompts(indices),
                self.assembly.settings,
                rng,
                backward=self._backward,
                adapter_off=lambda: adapter_off(denoiser),
                autocast=self.assembly.autocast,
                kept=kept,
            )

    def _sample_indices(self, micro: int) -> list[int]:
        """Global indices of this process's samples; their order does not depend on the processes."""
        size, world = self.config.batch_size, self.accelerator.num_processes
        start = ((self.step * self.config.accumulate + micro) * world + self.accelerator.process_index) * size
        return list(range(start, start + size))

    def _backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss / self.config.accumulate)

    def _update(self, finite: bool) -> float | None:
        """Average the gradient over the processes, clip it, step; ``None`` where the step is skipped."""
        self._average_gradients()
        if not finite:
            self.optimizer.zero_grad(set_to_none=True)
            return None
        norm = float(
            self.accelerator.clip_grad_norm_(list(self.parameters.values()), self.config.max_grad_norm)
        )
        if not math.isfinite(norm) and self.accelerator.scaler is None:
            self.optimizer.zero_grad(set_to_none=True)
            return None
        self.optimizer.step()  # a loss scaler skips by itself, and lowers its scale
        if self.optimizer.step_was_skipped:
            return None
        self._update_average()
        return norm

    def _average_gradients(self) -> None:
        """One mean over all processes, of all gradients at once."""
        if self.accelerator.num_processes == 1:
            return
        parameters = list(self.parameters.values())
        flat = torch.cat([_gradient(parameter).flatten() for parameter in parameters])
        flat = self.accelerator.reduce(flat, reduction="mean")
        offset = 0
        for parameter in parameters:
            count = parameter.numel()
            parameter.grad = flat[offset : offset + count].view_as(parameter).clone()
            offset += count

    def _update_average(self) -> None:
        if self.average is None or self.config.ema is None:
            return
        for name, value in self.parameters.items():
            self.average[name].lerp_(value.detach(), 1.0 - self.config.ema)

    def _count_nonfinite(self, skipped: bool) -> None:
        if not skipped:
            self.nonfinite_in_a_row = 0
            return
        self.skipped += 1
        self.nonfinite_in_a_row += 1
        limit = self.config.nonfinite_limit + (16 if self.accelerator.scaler is not None else 0)
        if self.nonfinite_in_a_row >= limit:
            where = self.last_checkpoint or "none was written yet"
            raise VaderError(
                f"{self.nonfinite_in_a_row} steps in a row had a loss or gradient that is not finite, so "
                "the run stops; "
                f"last good checkpoint: {where}. Lower --lr, use --precision fp32 or bf16, or another "
                "--gradient"
            )

    # -- validation --------------------------------------------------------------------------------------

    def _validate(self) -> tuple[str, ...]:
        """Sample, score and watch, on the main process; the verdict goes to every process.

        Returns:
            The monitors that are past their limit.
        """
        if self.config.validation_prompts == 0:
            return ()
        verdict = Verdict(best=False, alarms=(), messages=())
        if self.accelerator.is_main_process:
            with self._evaluated_weights():
                verdict = self._validate_here()
        verdict = self._from_main(verdict)
        if verdict.best and self.config.guard == "adapt":
            kept = self.parameters if self.average is None else self.average
            self.best = {name: value.detach().clone() for name, value in kept.items()}
        return verdict.alarms

    def _validate_here(self) -> Verdict:
        assembly, seeds = self.assembly, self.config.validation_seeds
        pairs = validation_pairs(assembly)
        mixtures = (assembly.rewards, assembly.monitors)
        scored = score_pairs(assembly, pairs, mixtures, measure_distance=True)
        rewards, monitors = scored.mean(assembly.rewards), scored.mean(assembly.monitors)
        watched = statistics(scored.videos, seeds)
        watched["base_distance"] = scored.base_distance or 0.0
        total = sum(term.weight * rewards[term.name] for term in assembly.rewards.terms)
        verdict = self.watch.see(self.step, total, monitors)
        record: dict[str, Any] = {
            "kind": "validation",
            "step": self.step,
            "rewards": rewards,
            "monitors": monitors,
        }
        record["watch"] = watched
        record["alarms"] = list(verdict.alarms)
        if self.run is not None:
            folder = self.run.samples(self.step)
            write_samples(scored, folder, assembly.geometry.fps)
            record["samples"] = str(folder.relative_to(self.run.folder))
            if verdict.best and self.step > 0:
                keep_best(
                    self.run.checkpoints,
                    self._adapter(),
                    {"step": self.step, "rewards": rewards, "monitors": monitors},
                )
        self._record(record)
        for message in verdict.messages:
            self._record({"kind": "alarm", "step": self.step, "message": message})
            self._say(f"ALARM at step {self.step}: {message}")
        return verdict

    # -- keeping -----------------------------------------------------------------------------------------

    def _adapter(self) -> Adapter:
        """The adapter that is kept: the averaged one where averages are kept."""
        adapter = adapter_of(self.assembly.backbone.denoiser)
        if self.average is None:
            return adapter
        return Adapter(
            {name: value.cpu().clone() for name, value in self.average.items()}, adapter.rank, adapter.alpha
        )

    @contextmanager
    def _evaluated_weights(self) -> Iterator[None]:
        """Within, the averaged weights are in the model."""
        if self.average is None:
            yield
            return
        trained = {name: value.detach().clone() for name, value in self.parameters.items()}
        self._set(self.average)
        try:
            yield
        finally:
            self._set(trained)

    @torch.no_grad()
    def _set(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[name])

    def _save(self) -> None:
        """Write a checkpoint of this step, unless it is there."""
        if self.run is not None and self.accelerator.is_main_process:
            tensors: dict[str, Any] = {"optimizer": self.optimizer.optimizer.state_dict()}
            if self.accelerator.scaler is not None:
                tensors["scaler"] = self.accelerator.scaler.state_dict()
            if self.average is not None:
                tensors["trained"] = {name: value.detach().cpu() for name, value in self.parameters.items()}
            if self.best:
                tensors["best"] = {name: value.cpu() for name, value in self.best.items()}
            checkpoint = Checkpoint(self.step, self._adapter(), tensors, self._position())
            place = write_checkpoint(self.run.checkpoints, checkpoint)
            self.last_checkpoint = str(place)
            prune(self.run.checkpoints, self.config.keep)
        self.accelerator.wait_for_everyone()

    def _position(self) -> dict[str, Any]:
        return {
            "reward_queries": self.reward_queries,
            "train_seconds": self.train_seconds,
            "skipped": self.skipped,
            "nonfinite_in_a_row": self.nonfinite_in_a_row,
            "lr_factor": self.lr_factor,
            "watch": self.watch.state(),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue exactly where ``checkpoint`` was written.

        Raises:
            VaderError: It was made with another adapter or optimizer.
        """
        from vader_core.lora.adapter import set_adapter

        self.step = checkpoint.step
        position = checkpoint.position
        self.reward_queries = int(position["reward_queries"])
        self.train_seconds = float(position["train_seconds"])
        self.skipped = int(position["skipped"])
        self.nonfinite_in_a_row = int(position["nonfinite_in_a_row"])
        self.lr_factor = float(position["lr_factor"])
        self.watch.restore(position["watch"])
        set_adapter(self.assembly.backbone.denoiser, checkpoint.adapter, what="checkpoint")
        if self.average is not None:
            if "trained" not in checkpoint.tensors:
                raise VaderError(
                    "the checkpoint was written without trainer.ema, so averages cannot be continued from it"
                )
            device = next(iter(self.average.values())).device
            self.average = {name: value.to(device) for name, value in checkpoint.adapter.tensors.items()}
            self._set(checkpoint.tensors["trained"])
        if self.config.guard == "adapt":
            device = next(iter(self.parameters.values())).device
            if "best" not in checkpoint.tensors:
                raise VaderError(
                    "the checkpoint was written without trainer.guard=adapt, so it holds no best adapter to "
                    "go back to: leave the guard off, or use --guard stop"
                )
            self.best = {name: value.to(device) for name, value in checkpoint.tensors["best"].items()}
        self.optimizer.optimizer.load_state_dict(checkpoint.tensors["optimizer"])
        if self.accelerator.scaler is not None and "scaler" in checkpoint.tensors:
            self.accelerator.scaler.load_state_dict(checkpoint.tensors["scaler"])

    # -- the end -----------------------------------------------------------------------------------------

    def _finish(self) -> dict[str, Any]:
        summary: dict[str, Any] = {
            "train_seconds": self.train_seconds,
            "steps": self.step,
            "reward_queries": self.reward_queries,
            "skipped_steps": self.skipped,
            "best_step": self.watch.best_step,
        }
        count = self.config.evaluation_pairs
        if count and self.accelerator.is_main_process:
            with self._evaluated_weights():
                found = evaluate(self.assembly, count)[1.0]
            summary |= {"pairs": count, "evaluation": as_json(found)}
        if self.run is not None:
            self.run.write_summary(summary)
        if self.accelerator.log_with:
            self.accelerator.end_training()
        return summary

    # -- small things ------------------------------------------------------------------------------------

    def _mean(self, value: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1:
            return value
        reduced: Tensor = self.accelerator.reduce(value, reduction="mean")
        return reduced

    def _mean_scores(self, results: list[StepResult]) -> dict[str, float]:
        return {
            name: float(
                self._mean(torch.stack([result.scores[name].float().mean() for result in results]).mean())
            )
            for name in results[0].scores
        }

    def _from_main(self, verdict: Verdict) -> Verdict:
        if self.accelerator.num_processes == 1:
            return verdict
        from accelerate.utils import broadcast_object_list

        shared = [verdict]
        broadcast_object_list(shared)
        return shared[0]

    def _record(self, record: Mapping[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        if self.run is not None:
            self.run.append(record)
        if self.accelerator.log_with:
            self.accelerator.log(flattened(record), step=int(record["step"]))
        self.listener.record(record)

    def _say(self, message: str) -> None:
        if self.accelerator.is_main_process:
            self.listener.say(message)

    def _asked_to_stop(self) -> bool:
        """Whether any process was asked to stop; all of them must agree."""
        if self.accelerator.num_processes == 1:
            return self._signum is not None
        asked = torch.tensor([float(self._signum or 0)], device=self.accelerator.device)
        total = float(self.accelerator.reduce(asked, reduction="sum").item())
        if total and self._signum is None:
            self._signum = int(signal.SIGTERM)
        return total > 0

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Within, Ctrl-C and SIGTERM let the step end, write a checkpoint and leave."""

        def ask(signum: int, frame: FrameType | None) -> None:
            if self._signum is not None:  # asked twice: leave at once
                raise KeyboardInterrupt
            self._signum = signum
            self._say("stopping after this step …")

        before = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, ask)
        except ValueError:  # not in the main thread, where signals cannot be taken
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
