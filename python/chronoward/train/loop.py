"""The loop: a step, now and then a look at the tuning split, a checkpoint, and the next step.

Everything a step does follows from (seed, step, planned steps, data), so a run that is killed and
resumed ends with the bytes of one that was not. (One of `minutes` plans its steps by their speed:
there a resumed run keeps the plans that its checkpoint has seen, and makes the later ones itself.)

The model may be on a GPU. Batches stay on the CPU, where objectives work out what follows from
them; the columns that the model reads are sent. No step waits for the GPU (see `train.unread`).
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from chronoward.errors import NumericError
from chronoward.model import Hazard, NextEvent, NextVisit
from chronoward.model.batch import on_device
from chronoward.model.next_visit import kv_end_of_visits
from chronoward.model.parts import whole
from chronoward.train.average import Average
from chronoward.train.data import join_rows, n_tokens
from chronoward.train.device import product_dtype, products_in, synchronize, title
from chronoward.train.interrupt import Interrupt, deferred_signals
from chronoward.train.learned_from import Evaluation
from chronoward.train.metrics import Sums
from chronoward.train.optimizer import Optimizers
from chronoward.train.ranks import Ranks
from chronoward.train.schedule import learning_rate, next_evaluation, run_length, settling_steps
from chronoward.train.settle import settle
from chronoward.train.settle_hazard import settle_hazards
from chronoward.train.shards import backward, is_sharded, put_away
from chronoward.train.state import Progress, load_checkpoint, save_checkpoint, steps_of
from chronoward.train.throughput import gemm_rate, step_flop
from chronoward.train.unread import Unread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from chronoward.loader import PackedRow
    from chronoward.model import Batch, Model, Objective
    from chronoward.train.config import TrainConfig
    from chronoward.train.learned_from import Data
    from chronoward.train.metrics import MetricsLog

LOG_EVERY_STEPS = 10
CHECKPOINT_SECONDS = 300.0
MAX_SKIPPED_IN_A_ROW = 5
COUNTS_PER_LOOK = 25  # batches counted in all for each that the model looks at, to settle biases
LEAST_TRIALS = 5
TRIAL_SHARE = 0.005  # of a run planned for some minutes: steps that only tell how long one takes
OVERRUN = 1.25  # a run planned for some minutes ends after this share of them, finished or not


class Trainer:
    """One training run in a folder.

    Args:
        model: with its heads, whole or in parts (`train.shards`); its weights are trained in place,
            on the device where they are.
        data: rows and objectives.
        config: options.
        n_steps: length of the run, as planned before its start.
        folder: the run's `checkpoints` folder, existing.
        log: the run's metrics.
        report: called with (steps done, steps, line) after each logged step or evaluation.
        ranks: the processes of the run; None: this one alone.
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
        ranks: Ranks | None = None,
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
        self._ranks = ranks or Ranks()
        self._average = None if config.average is None else Average(model, config.average)
        self._device = model.embedding.weight.device
        self._dtype = product_dtype(self._device, config.dtype)
        self._title = title(self._device)
        self._peak = gemm_rate(self._device, self._dtype)
        self._reads_each_step = self._device.type == "cpu" or is_sharded(model)
        self._unread = Unread()
        self._since_log = (0, 0.0, 0.0)  # tokens, seconds, FLOP
        self._last_checkpoint = time.monotonic()

    def resume(self, step: int) -> None:
        """Goes on from a checkpoint.

        Raises:
            FormatError: the checkpoint is truncated or does not fit.
        """
        self.progress = load_checkpoint(
            self._folder, step, self.model, self._optimizers, self._average
        )
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
        told = self._ranks.gather((interrupt.number, due))
        number = next((n for n, _ in told if n is not None), None)
        if told[0][1] or (number is not None and not self.progress.stopped):
            self._save()
        if number is not None:  # whichever process it reached, all leave after this step
            interrupt.number = number
            self._ranks.wait()
            interrupt.leave()

    def _save(self) -> None:
        """Writes a checkpoint and the log.

        Raises:
            OSError: it could not be written: in every process, whichever writes.
        """
        self._read()
        is_first, failure = self._ranks.is_first, None
        is_new = self._ranks.first(self.progress.step not in steps_of(self._folder))
        try:
            if is_new and (is_first or is_sharded(self.model)):
                parts = (self.model, self._optimizers, self.progress, self._average)
                save_checkpoint(self._folder, *parts, is_writer=is_first)
            if is_first:
                self._log.write()
        except OSError as error:
            failure = error
        failure = self._ranks.first(failure)
        if failure is not None:
            raise failure
        self._last_checkpoint = time.monotonic()

    def loss(
        self,
        batch: Batch,
        objectives: Sequence[Objective],
        sums: Sums | None = None,
        *,
        clock: torch.Tensor | None = None,
        terms: dict[str, float] | None = None,
    ) -> torch.Tensor:
        """Weighted sum of the objectives' mean losses of one batch.

        Args:
            batch: the rows, on the CPU.
            objectives: what is asked of them.
            sums: gets the losses, for the log.
            clock: int32 (T,), takes the place of the recorded one in the model's eyes.
            terms: by objective, what to divide by: the terms of the whole step where this batch is
                a part of it. None: the batch's own.
        """
        seen_min = batch.time_min if clock is None else clock
        with products_in(self._device, self._dtype):
            kv_end = self._kv_end(batch, objectives)
            hidden = self._hidden(batch.token_id, seen_min, batch.cu_seqlens, kv_end)
            in_parts = is_sharded(self.model)  # each pass goes back through all of the model
            total: torch.Tensor = hidden[:0].sum() if in_parts else hidden.new_zeros(())
            for objective in objectives:
                head = objective.loss(self.model, hidden, batch)
                if sums is not None:
                    sums.add(objective.name, head)
                weight = self.config.objectives[objective.name]
                n = head.weight if terms is None else terms[objective.name]
                total = total + weight * head.total / max(n, 1.0)
        return total

    def _hidden(self, *columns: torch.Tensor | None) -> torch.Tensor:
        """What the model makes of columns of a batch, which are sent to it."""
        sent = [None if x is None else on_device(x, self._device) for x in columns]
        return self.model(*sent)  # type: ignore[no-any-return]

    def _kv_end(self, batch: Batch, objectives: Sequence[Objective]) -> torch.Tensor | None:
        """Where attention goes both ways inside visits (see `TrainConfig`); None: causal."""
        if not self.config.sees_whole_visits:
            return None
        asked = next(o for o in objectives if isinstance(o, NextVisit))
        return kv_end_of_visits(batch, asked.start, asked.end)

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
            sums = Sums()
            self._add_gradients(self._data.train.step(0, step), (0, step), sums)
            if self._clip(sums.read()):
                trial.step()
            trial.zero_grad()
            synchronize(self._device)
            times.append(self._ranks.first(time.monotonic() - start))
        return sorted(times)[len(times) // 2]

    def _batch(
        self, rows: Sequence[PackedRow], epoch: int, step: int
    ) -> tuple[Batch, torch.Tensor | None]:
        """What a step learns from, and the clock that the model sees."""
        batch = join_rows(rows)
        redraw = self._data.redraw
        return batch, None if redraw is None else redraw(batch, epoch, step)

    def _passes(
        self,
        rows: Sequence[PackedRow],
        batch: Batch,
        clock: torch.Tensor | None,
        at: tuple[int, int],
    ) -> list[tuple[Batch, torch.Tensor | None]]:
        """This process's share of a step: some rows at a time, with the tokens whose logits the
        step makes (chosen by all its rows, so that it does not matter how they are split)."""
        choose = self._data.rare_codes
        sample = None if choose is None else choose(batch, *at)
        n_rows = self._rows_at_once(rows)
        if n_rows == len(rows) and self._ranks.world == 1:
            return [(replace(batch, output_sample=sample), clock)]
        length = len(batch.token_id) // len(rows)
        parts = []
        for first in self._ranks.share(range(0, len(rows), n_rows)):
            part = replace(join_rows(rows[first : first + n_rows]), output_sample=sample)
            begin, end = first * length, (first + n_rows) * length
            parts.append((part, None if clock is None else clock[begin:end]))
        return parts

    def _add_gradients(self, rows: Sequence[PackedRow], at: tuple[int, int], sums: Sums) -> bool:
        """Makes the gradient of a step of (epoch, step) `at`; whether there was any term in it."""
        batch, clock = self._batch(rows, *at)
        terms = {o.name: o.n_terms(batch) for o in self._data.objectives}
        if not any(terms.values()):
            return False
        for part, seen in self._passes(rows, batch, clock, at):
            loss = self.loss(part, self._data.objectives, sums, clock=seen, terms=terms)
            if loss.requires_grad:
                backward(self.model, loss)
        self._keep_up(-(-len(rows) // self._rows_at_once(rows)))
        if not is_sharded(self.model):
            self._ranks.add_gradients(self.model.parameters())
        return True

    def _rows_at_once(self, rows: Sequence[PackedRow]) -> int:
        most = self.config.rows_per_pass or len(rows)
        return min(most, -(-len(rows) // self._ranks.world))

    def _keep_up(self, n_passes: int) -> None:
        """Where the model is in parts, goes through it as often as any other process does when they
        share so many passes: one token, of which nothing is asked."""
        if not is_sharded(self.model):
            return
        token, bounds = torch.zeros(1, dtype=torch.int32), torch.tensor([0, 1], dtype=torch.int32)
        for _ in range(self._ranks.idle_turns(n_passes)):
            nothing = self._hidden(token.long(), token, bounds)[:0].sum()
            if nothing.requires_grad:
                backward(self.model, nothing)

    def _clip_gradient(self) -> torch.Tensor:  # its norm before
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        return whole(torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_norm))

    def _clip(self, sums: Sums) -> bool:
        """Clips the gradient; whether it and the losses are finite."""
        norm = float(self._clip_gradient())
        return math.isfinite(norm) and all(map(math.isfinite, sums.means().values()))

    def _step(self) -> None:
        progress, start = self.progress, time.monotonic()
        at = (progress.epoch, progress.epoch_step)
        rows = self._data.train.step(*at)
        rate = learning_rate(progress.step, progress.n_steps, self.config)
        self._optimizers.learning_rate = rate
        self.model.train()
        own = Sums()
        if not self._add_gradients(rows, at, own):
            progress.empty += 1
        elif self._reads_each_step:
            self._update(self._of_all(own))
        else:
            self._update_unread(own)
        self._optimizers.zero_grad()
        self._advance(rows, self._ranks.first(time.monotonic() - start))

    def _update(self, sums: Sums) -> None:
        """Takes the step, unless something in it is not finite."""
        if not self._clip(sums):
            self._skip(self.progress.step)
            return
        self._optimizers.step()
        if self._average is not None:
            self._average.update(self.model, self.progress.step)
        self.progress.skipped_in_a_row = 0
        self._sums.merge(sums)

    def _update_unread(self, own: Sums) -> None:
        """The same without a look at it: the device finds out itself, and leaves the step out."""
        is_odd = ~torch.isfinite(self._clip_gradient()) | own.not_finite(self._device)
        left_out = self._ranks.greatest(is_odd.float())
        self._optimizers.step(left_out)
        if self._average is not None:
            self._average.update(self.model, self.progress.step, left_out)
        self._unread.add(self.progress.step, own, left_out)

    def _read(self) -> None:
        """Looks at how the last steps went, all of them at once."""
        if not self._unread:
            return
        start = time.monotonic()
        for step, own, is_left_out in self._unread.read():
            if is_left_out:
                self._skip(step)
            else:
                self.progress.skipped_in_a_row = 0
                self._sums.merge(self._of_all(own))
        self._spend(self._ranks.first(time.monotonic() - start))

    def _of_all(self, own: Sums) -> Sums:
        """Every process's sums together."""
        sums = Sums()
        for part in self._ranks.gather(own.read()):
            sums.merge(part)
        return sums

    def _skip(self, step: int) -> None:
        progress = self.progress
        progress.skipped += 1
        progress.skipped_in_a_row += 1
        if progress.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            steps = range(step - MAX_SKIPPED_IN_A_ROW + 1, step + 1)
            message = (
                f"the loss or its gradient was not finite in steps {', '.join(map(str, steps))}; "
                "the last good checkpoint is kept; try a lower learning rate"
            )
            raise NumericError(message)

    def _advance(self, rows: Sequence[PackedRow], seconds: float) -> None:
        progress, used = self.progress, n_tokens(rows)
        progress.step += 1
        progress.tokens += used
        self._spend(seconds, used, step_flop(self.model.config, join_rows(rows), used))
        progress.epoch_step += 1
        if progress.epoch_step >= self._data.train.n_steps(progress.epoch):
            progress.epoch, progress.epoch_step = progress.epoch + 1, 0
        if progress.step >= progress.n_steps:
            progress.stopped = "all planned steps were done"
        elif self.config.minutes and progress.seconds > OVERRUN * 60 * self.config.minutes:
            progress.stopped = "the time was up before all planned steps were done"

    def _spend(self, seconds: float, used: int = 0, flop: float = 0.0) -> None:
        self.progress.seconds += seconds
        before = self._since_log
        self._since_log = (before[0] + used, before[1] + seconds, before[2] + flop)

    def _line(self, kind: str) -> dict[str, Any]:
        progress, (used, seconds, flop) = self.progress, self._since_log
        return {
            "kind": kind,
            "device": self._title,
            "step": progress.step,
            "n_steps": progress.n_steps,
            "epoch": progress.epoch,
            "tokens": progress.tokens,
            "seconds": round(progress.seconds, 3),
            "tokens_per_second": round(used / seconds, 1) if seconds else None,
            "peak_share": round(flop / seconds / self._peak, 4) if seconds else None,
            "learning_rate": self._optimizers.learning_rate,
            "skipped": progress.skipped,
            "empty": progress.empty,
        }

    def _write_line(self) -> None:
        self._read()
        line = self._line("train") | self._sums.report(self._units)
        self._sums, self._since_log = Sums(), (0, 0.0, 0.0)
        self._emit(line)

    def _emit(self, line: dict[str, Any]) -> None:
        if not self._ranks.is_first:
            return
        self._log.add(line)
        if self._report is not None:
            self._report(self.progress.step, self.progress.n_steps, line)

    def settle(self) -> Evaluation | None:
        """Sets output biases, where there are any, and levels of hazards by the rows of the coming
        epoch (see `train.settle` and `train.settle_hazard`).

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
            if isinstance(objective, NextEvent) and not self.config.portable:
                settle(self.model, objective, looked_at, also_counted)
            elif isinstance(objective, Hazard):
                settle_hazards(self.model, objective, looked_at, also_counted)
        return self._look_at_tuning() if self._data.tuning else None

    @torch.no_grad()
    def _look_at_tuning(self) -> Evaluation:
        self.model.eval()
        own = Sums()
        for batch in self._ranks.share(self._data.tuning):
            self.loss(batch, self._data.tuning_objectives, own)
        self._keep_up(len(self._data.tuning))
        put_away(self.model)
        sums = self._of_all(own)
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
        judged = nullcontext() if self._average is None else self._average.in_place_of(self.model)
        with judged:
            loss, report = self._look_at_tuning()
        progress.seconds += self._ranks.first(time.monotonic() - start)
        self._emit(self._line("tuning") | report)
        if math.isfinite(loss) and (progress.best_loss is None or loss < progress.best_loss):
            progress.best_loss, progress.best_step = loss, progress.step
            progress.without_best = 0
            return
        progress.without_best += 1
        if progress.without_best >= self.config.patience and not progress.stopped:
            progress.stopped = f"no better on tuning in {progress.without_best} evaluations"
