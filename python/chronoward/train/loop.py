"""The loop: a step, now and then a look at the tuning split, a checkpoint, and the next step.

Everything a step does follows from (seed, step, planned steps, data), so a run that is killed and
resumed ends with the bytes of one that was not. (One of `minutes` plans its steps by their speed:
there a resumed run keeps the plans that its checkpoint has seen, and makes the later ones itself.)
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from chronoward.errors import NumericError
from chronoward.model import Hazard, NextEvent
from chronoward.train.data import join_rows, n_tokens
from chronoward.train.interrupt import Interrupt, deferred_signals
from chronoward.train.metrics import Sums
from chronoward.train.optimizer import Optimizers
from chronoward.train.schedule import learning_rate, next_evaluation, run_length, settling_steps
from chronoward.train.settle import settle
from chronoward.train.settle_hazard import settle_hazards
from chronoward.train.state import Progress, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from chronoward.loader import PackedRow
    from chronoward.model import Batch, Model, Objective
    from chronoward.train.config import TrainConfig
    from chronoward.train.metrics import MetricsLog
    from chronoward.train.rare_codes import RareCodes
    from chronoward.train.redraw import Redraw

LOG_EVERY_STEPS = 10
CHECKPOINT_SECONDS = 300.0
MAX_SKIPPED_IN_A_ROW = 5
COUNTS_PER_LOOK = 25  # batches counted in all for each that the model looks at, to settle biases
LEAST_TRIALS = 5
TRIAL_SHARE = 0.005  # of a run planned for some minutes: steps that only tell how long one takes
OVERRUN = 1.25  # a run planned for some minutes ends after this share of them, finished or not


class Rows(Protocol):
    """Packed rows by (epoch, step); `chronoward.loader.Loader` is one."""

    def n_steps(self, epoch: int) -> int: ...
    def step(self, epoch: int, step: int) -> Sequence[PackedRow]: ...


class Evaluation(NamedTuple):
    """Weighted loss on the tuning split, and its report by head."""

    loss: float
    report: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Data:
    """What a run learns from and is judged by.

    Attributes:
        train: rows to learn from.
        objectives: what is learned from them.
        tuning: batches of the tuning split, always the same ones; may be empty.
        tuning_objectives: the objectives, with the tuning split's outcomes.
        redraw: gives the clock that the model sees in a training step; None: the recorded one.
        rare_codes: chooses the tokens whose logits a training step makes; None: all.
    """

    train: Rows
    objectives: Sequence[Objective]
    tuning: Sequence[Batch]
    tuning_objectives: Sequence[Objective]
    redraw: Redraw | None = None
    rare_codes: RareCodes | None = None


class Trainer:
    """One training run in a folder.

    Args:
        model: with its heads; its weights are trained in place.
        data: rows and objectives.
        config: options.
        n_steps: length of the run, as planned before its start.
        folder: the run's `checkpoints` folder, existing.
        log: the run's metrics.
        report: called with (steps done, steps, line) after each logged step or evaluation.
    """

    def __init__(
        self,
        model: Model,
        data: Data,
        config: TrainConfig,
        *,
        n_steps: int,
        folder: Path,
        log: MetricsLog,
        report: Callable[[int, int, dict[str, Any]], None] | None = None,
    ) -> None:
        self.model = model
        self.config = config
        self.progress = Progress(n_steps=n_steps)
        self._data = data
        self._folder = folder
        self._log = log
        self._report = report
        self._optimizers = Optimizers(model, config)
        self._units = {o.name: o.unit for o in data.objectives}
        self._sums = Sums()
        self._since_log = (0, 0.0)  # tokens, seconds
        self._last_checkpoint = time.monotonic()

    def resume(self, step: int) -> None:
        """Goes on from a checkpoint.

        Raises:
            FormatError: the checkpoint is truncated or does not fit.
        """
        self.progress = load_checkpoint(self._folder, step, self.model, self._optimizers)
        self._log.resume(step)

    def run(self) -> Progress:
        """Trains to the end.

        Raises:
            NumericError: too many steps in a row whose loss or gradient is not finite.
            SystemExit: SIGTERM came (143); the state was saved.
            KeyboardInterrupt: SIGINT came; the state was saved.
        """
        with deferred_signals() as interrupt:
            while not self.progress.stopped:
                self._step()
                if self._evaluation_is_due():
                    self._evaluate()
                    self._plan_anew()
                    self._save()
                elif self.progress.step % LOG_EVERY_STEPS == 0:
                    self._write_line()
                self._leave_if_asked(interrupt)
        return self.progress

    def _evaluation_is_due(self) -> bool:
        progress = self.progress
        due = next_evaluation(progress.n_steps, progress.evaluations, self.config)
        return progress.step >= due or bool(progress.stopped)

    def _plan_anew(self) -> None:
        """Sets the length of a run of minutes by the speed of all steps so far."""
        progress = self.progress
        if self.config.minutes is not None and not progress.stopped:
            seconds = progress.seconds / progress.step
            progress.n_steps = run_length(
                self.config, self._data.train.n_steps(0), seconds, done=progress.step
            )

    def _leave_if_asked(self, interrupt: Interrupt) -> None:
        due = time.monotonic() - self._last_checkpoint > CHECKPOINT_SECONDS
        if due or (interrupt and not self.progress.stopped):
            self._save()
        if interrupt:
            interrupt.leave()

    def _save(self) -> None:
        save_checkpoint(self._folder, self.model, self._optimizers, self.progress)
        self._log.write()
        self._last_checkpoint = time.monotonic()

    def loss(
        self,
        batch: Batch,
        objectives: Sequence[Objective],
        sums: Sums | None = None,
        *,
        clock: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Weighted sum of the objectives' mean losses of one batch; `clock` int32 (T,) takes the
        place of the recorded one in the model's eyes."""
        seen_min = batch.time_min if clock is None else clock
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.dtype == "bf16"):
            hidden = self.model(batch.token_id, seen_min, batch.cu_seqlens)
            total: torch.Tensor = hidden.new_zeros(())
            for objective in objectives:
                head = objective.loss(self.model, hidden, batch)
                if sums is not None:
                    sums.add(objective.name, head)
                weight = self.config.objectives[objective.name]
                total = total + weight * head.total / max(head.weight, 1.0)
        return total

    def seconds_per_step(self) -> float:
        """Time of one whole step, measured on the first batches without learning from them:
        optimizers with a state of their own run at a learning rate of 0. The first steps of a
        process are slow, so a run of minutes spends a small share of them on this."""
        trial = Optimizers(self.model, self.config)
        times: list[float] = []
        n_batches = self._data.train.n_steps(0)
        enough = TRIAL_SHARE * 60 * (self.config.minutes or 0.0)
        while len(times) < LEAST_TRIALS or sum(times) < enough:
            start, step = time.monotonic(), len(times) % n_batches
            batch, clock = self._batch(self._data.train.step(0, step), 0, step)
            batch = self._sampled(batch, 0, step)
            if self._gradient(self.loss(batch, self._data.objectives, clock=clock)):
                trial.step()
            trial.zero_grad()
            times.append(time.monotonic() - start)
        return sorted(times)[len(times) // 2]

    def _batch(
        self, rows: Sequence[PackedRow], epoch: int, step: int
    ) -> tuple[Batch, torch.Tensor | None]:
        """What a step learns from, and the clock that the model sees."""
        batch = join_rows(rows)
        redraw = self._data.redraw
        return batch, None if redraw is None else redraw(batch, epoch, step)

    def _sampled(self, batch: Batch, epoch: int, step: int) -> Batch:
        """The batch with the tokens whose logits a training step makes."""
        choose = self._data.rare_codes
        return batch if choose is None else replace(batch, output_sample=choose(batch, epoch, step))

    def _gradient(self, loss: torch.Tensor) -> bool:
        """Makes the clipped gradient; whether loss and gradient are finite."""
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_norm))
        return math.isfinite(float(loss.detach())) and math.isfinite(norm)

    def _step(self) -> None:
        progress, start = self.progress, time.monotonic()
        rows = self._data.train.step(progress.epoch, progress.epoch_step)
        rate = learning_rate(progress.step, progress.n_steps, self.config)
        self._optimizers.learning_rate = rate
        self.model.train()
        sums = Sums()
        batch, clock = self._batch(rows, progress.epoch, progress.epoch_step)
        batch = self._sampled(batch, progress.epoch, progress.epoch_step)
        if self._gradient(self.loss(batch, self._data.objectives, sums, clock=clock)):
            self._optimizers.step()
            progress.skipped_in_a_row = 0
            self._sums.merge(sums)
        else:
            self._skip()
        self._optimizers.zero_grad()
        self._advance(rows, time.monotonic() - start)

    def _skip(self) -> None:
        progress = self.progress
        progress.skipped += 1
        progress.skipped_in_a_row += 1
        if progress.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            message = (
                f"the loss or its gradient was not finite in {MAX_SKIPPED_IN_A_ROW} steps in a row "
                f"(the last: step {progress.step}); try a lower learning rate"
            )
            raise NumericError(message)

    def _advance(self, rows: Sequence[PackedRow], seconds: float) -> None:
        progress, used = self.progress, n_tokens(rows)
        progress.step += 1
        progress.tokens += used
        progress.seconds += seconds
        self._since_log = (self._since_log[0] + used, self._since_log[1] + seconds)
        progress.epoch_step += 1
        if progress.epoch_step >= self._data.train.n_steps(progress.epoch):
            progress.epoch, progress.epoch_step = progress.epoch + 1, 0
        if progress.step >= progress.n_steps:
            progress.stopped = "all planned steps were done"
        elif self.config.minutes and progress.seconds > OVERRUN * 60 * self.config.minutes:
            progress.stopped = "the time was up before all planned steps were done"

    def _line(self, kind: str) -> dict[str, Any]:
        progress, (used, seconds) = self.progress, self._since_log
        return {
            "kind": kind,
            "step": progress.step,
            "n_steps": progress.n_steps,
            "epoch": progress.epoch,
            "tokens": progress.tokens,
            "seconds": round(progress.seconds, 3),
            "tokens_per_second": round(used / seconds, 1) if seconds else None,
            "learning_rate": self._optimizers.learning_rate,
            "skipped": progress.skipped,
        }

    def _write_line(self) -> None:
        line = self._line("train") | self._sums.report(self._units)
        self._sums, self._since_log = Sums(), (0, 0.0)
        self._emit(line)

    def _emit(self, line: dict[str, Any]) -> None:
        self._log.add(line)
        if self._report is not None:
            self._report(self.progress.step, self.progress.n_steps, line)

    def settle(self) -> Evaluation | None:
        """Sets output biases and levels of hazards by the rows of the coming epoch (see
        `train.settle` and `train.settle_hazard`).

        Returns:
            What the tuning split says after that; None where there is no tuning split.
        """
        rows, epoch = self._data.train, self.progress.epoch + 1
        n_looks = settling_steps(self.progress.n_steps, rows.n_steps(epoch), self.config)
        n_counts = min(COUNTS_PER_LOOK * n_looks, rows.n_steps(epoch))

        def look(step: int) -> tuple[Batch, torch.Tensor]:
            batch, clock = self._batch(rows.step(epoch, step), epoch, step)
            return batch, batch.time_min if clock is None else clock

        def count(step: int) -> Batch:
            return join_rows(rows.step(epoch, step))

        for objective in self._data.objectives:
            looked_at = map(look, range(n_looks))
            also_counted = map(count, range(n_looks, n_counts))
            if isinstance(objective, NextEvent):
                settle(self.model, objective, looked_at, also_counted)
            elif isinstance(objective, Hazard):
                settle_hazards(self.model, objective, looked_at, also_counted)
        return self._look_at_tuning() if self._data.tuning else None

    @torch.no_grad()
    def _look_at_tuning(self) -> Evaluation:
        self.model.eval()
        sums = Sums()
        for batch in self._data.tuning:
            self.loss(batch, self._data.tuning_objectives, sums)
        means = sums.means()
        loss = sum(self.config.objectives[name] * mean for name, mean in means.items())
        return Evaluation(loss, sums.report(self._units))

    def _evaluate(self) -> None:
        """Looks at the tuning split; a new best is kept, too many without one end the run."""
        if self._since_log[0]:
            self._write_line()
        progress, start = self.progress, time.monotonic()
        progress.evaluations += 1
        if not self._data.tuning:
            progress.best_step = progress.step
            return
        loss, report = self._look_at_tuning()
        progress.seconds += time.monotonic() - start
        self._emit(self._line("tuning") | report)
        if math.isfinite(loss) and (progress.best_loss is None or loss < progress.best_loss):
            progress.best_loss, progress.best_step = loss, progress.step
            progress.without_best = 0
            return
        progress.without_best += 1
        if progress.without_best >= self.config.patience and not progress.stopped:
            progress.stopped = f"no better on tuning in {progress.without_best} evaluations"
