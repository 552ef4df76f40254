"""Scores of weights from before: callbacks would stop the run by them, or choose among its weights."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import nn
from torchmetrics import Metric, MetricCollection

from ...lightning_state import callbacks_of


def forget_earlier_runs(trainer: Trainer) -> None:
    """Let metrics, and every EarlyStopping and ModelCheckpoint, that served an earlier fit start anew.

    Files stay as they are.
    """
    _reset_metrics(trainer.lightning_module)
    for callback in callbacks_of(trainer):
        if isinstance(callback, EarlyStopping):
            _restart(callback)
        elif isinstance(callback, ModelCheckpoint):
            callback.best_k_models = {}
            callback.kth_best_model_path = callback.best_model_path = ""
            callback.kth_value = _worst(callback)
            callback.best_model_score = callback.current_score = None


class NoisyScores:
    """Lets nothing be decided by scores of the noisy phase, when weights had little noise yet, or none.

    At the hand-over what was logged so far is dropped, metrics of the module start anew, scores that callbacks keep
    become the worst there are, and none is taken at that very step. A request to stop is dropped too, whoever made it:
    it may come from such a score. Keyboard and signals end a run another way, and a Timer asks again.

    EarlyStopping and ReduceLROnPlateau wait until what they monitor is logged again, in place of an error. The next
    checkpoint that is as good as any replaces one of that phase, of which a warning tells.

    Args:
        trainer: at the hand-over.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._step, self._epoch = trainer.global_step, trainer.current_epoch
        self._waiting: list[EarlyStopping | LRSchedulerConfig] = []
        if trainer._results is not None:  # no public way; else Lightning averages these scores into those to come
            trainer._results.reset()
        trainer.callback_metrics.clear()
        _reset_metrics(trainer.lightning_module)
        _go_on(trainer)
        for config in trainer.lr_scheduler_configs:
            self._let_wait(config)
        for callback in callbacks_of(trainer):
            if isinstance(callback, EarlyStopping):
                _restart(callback)
                self._let_wait(callback)
            elif isinstance(callback, ModelCheckpoint) and callback.monitor:
                _forget_best(callback)
                callback._last_global_step_saved = self._step  # it would miss its score, which is an error

    def epoch_begins(self, trainer: Trainer) -> None:
        """After a whole epoch a metric that is still missing is a mistake again."""
        if trainer.current_epoch > self._epoch + 1:
            self.be_strict()

    def validated(self, trainer: Trainer) -> None:
        """Let checkpoints be saved at the step of the hand-over after all: its weights have a score of their own."""
        if trainer.global_step != self._step:
            return
        for callback in callbacks_of(trainer):
            if isinstance(callback, ModelCheckpoint) and callback.monitor in trainer.callback_metrics:
                callback._last_global_step_saved = 0

    def be_strict(self) -> None:
        """Let a missing metric be an error where it was one before."""
        for waiting in self._waiting:
            waiting.strict = True
        self._waiting = []

    def _let_wait(self, waiting: EarlyStopping | LRSchedulerConfig) -> None:
        if waiting.strict:
            waiting.strict = False
            self._waiting.append(waiting)


def _go_on(trainer: Trainer) -> None:
    if trainer.should_stop:
        trainer.should_stop = False
        rank_zero_warn(
            "something asked in the noisy phase that the run stop (trainer.should_stop), maybe by scores of weights "
            "that held less noise than certified, so the run goes on; to stop here, set max_steps to the noisy steps"
        )


def _reset_metrics(module: nn.Module) -> None:
    """Collections last: some of their metrics share states, which resetting each by itself takes apart."""
    for kind in (Metric, MetricCollection):
        for part in module.modules():
            if isinstance(part, kind):
                part.reset()


def _forget_best(callback: ModelCheckpoint) -> None:
    if callback.best_model_path:
        rank_zero_warn(
            f"{callback.best_model_path} is of the noisy phase, when weights hold less noise than certified: it must "
            "not leave; the next checkpoint, if there is one, replaces it; release weights.safetensors alone: a "
            "checkpoint also holds what other callbacks and the loops kept, which no certificate covers"
        )
    worst = _worst(callback)
    callback.best_k_models = dict.fromkeys(callback.best_k_models, worst)
    callback.kth_value, callback.best_model_path = worst, ""
    callback.best_model_score = callback.current_score = None


def _restart(callback: EarlyStopping) -> None:
    worst = torch.tensor(torch.inf)
    callback.best_score = worst if callback.monitor_op == torch.lt else -worst
    callback.wait_count = callback.stopped_epoch = 0
    callback.stopping_reason, callback.stopping_reason_message = EarlyStoppingReason.NOT_STOPPED, None


def _worst(callback: ModelCheckpoint) -> torch.Tensor:
    return torch.tensor(torch.inf if callback.mode == "min" else -torch.inf)
