"""``erode fit|validate|test|predict|unlearn``: LightningCLI with a verb, ``--init_from``, and folders of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from .. import callbacks, datamodules, lightning_modules  # noqa: F401  # short class names need the import
from .._version import __version__
from ..callbacks import ExposureLedger, PredictionWriter
from ..callbacks.bases.operator import operators_of
from ..callbacks.exposure_ledger import INITIALISATION
from ..lightning_state import callbacks_of, runs_fast
from ..masks import ForgetSplit
from ..parsing import HintingParser
from ..weights import load_weights, save_weights
from .run_folder import new_run_folder, refuse_used


class UnlearningTrainer(Trainer):
    """A Trainer with one more verb."""

    def unlearn(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
    ) -> None:
        """Run the one unlearning operator among the callbacks.

        Args:
            model: holds the trained weights.
            datamodule: serves retained data.
            ckpt_path: resume an unlearning run that was cut short; not where the trained weights come from.

        Raises:
            MisconfigurationException: without exactly one operator.
        """
        operators = operators_of(self)
        if len(operators) != 1:
            names = ", ".join(type(operator).__name__ for operator in operators)
            remedy = f"found {names}; keep one" if names else "found none; add one, e.g. --trainer.callbacks+=Retrain"
            raise MisconfigurationException(f"unlearn needs exactly one unlearning operator, {remedy}")
        self.fit(model, datamodule=datamodule, ckpt_path=ckpt_path)


class SaveConfig(SaveConfigCallback):
    """Writes ``config.yaml`` into the run folder and hands the whole configuration to Weights & Biases."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called on rank 0 once the logger exists."""
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams(self.config.as_dict())


class _Parser(HintingParser, LightningArgumentParser):
    """Of Lightning's verbs and ours that start a Trainer."""


class ErodeCLI(LightningCLI):
    """``erode fit|validate|test|predict|unlearn`` as LightningCLI users know it, plus ``--init_from``."""

    def __init__(self, args: ArgsType = None) -> None:
        super().__init__(
            LightningModule,
            LightningDataModule,
            trainer_class=UnlearningTrainer,
            save_config_callback=SaveConfig,
            seed_everything_default=0,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=_Parser,
            parser_kwargs={
                "prog": "erode",
                "version": __version__,
                "description": "Remove coarse-mask shortcuts from segmentation models by unlearning.",
            },
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's verbs and ``unlearn``."""
        return {**LightningCLI.subcommands(), "unlearn": {"model", "datamodule"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Every verb can start from weights."""
        parser.add_argument(
            "--init_from",
            type=str | None,
            default=None,
            help="Restore weights, and only weights, before the verb: .safetensors or a checkpoint (type: str)",
        )

    def before_instantiate_classes(self) -> None:
        """Give the run a folder of its own and let every logger write there."""
        trainer = self.config[self.subcommand].trainer
        if trainer.default_root_dir is None:
            trainer.default_root_dir = str(new_run_folder(self.subcommand))
        root = trainer.default_root_dir
        refuse_used(Path(root))
        rank_zero_only(print)(f"run folder: {root}")
        if trainer.logger is False:
            return
        given = [] if trainer.logger in (None, True) else trainer.logger
        loggers = given if isinstance(given, list) else [given]
        for logger in loggers:
            _write_into(logger, root)
        csv = Namespace(  # type: ignore[no-untyped-call]
            class_path="lightning.pytorch.loggers.CSVLogger",
            init_args=Namespace(  # type: ignore[no-untyped-call]
                save_dir=root, name="", version="", prefix="", flush_logs_every_n_steps=100
            ),
        )
        trainer.logger = [csv, *loggers]  # Lightning takes the run's folder from the first logger

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Predictions become files even if nobody asked for a writer."""
        trainer = super().instantiate_trainer(**kwargs)
        own = callbacks_of(trainer)
        if self.subcommand == "predict" and not any(isinstance(callback, BasePredictionWriter) for callback in own):
            own.append(PredictionWriter())
        return trainer

    def before_fit(self) -> None:
        """Start from weights, if any are given."""
        self._restore()

    def before_test(self) -> None:
        """Start from weights; without any, what follows says nothing of a trained model."""
        config = self.config[self.subcommand]
        if config.init_from is None and config.ckpt_path is None:
            rank_zero_warn(
                f"erode {self.subcommand} was given neither --init_from WEIGHTS nor --ckpt_path, so the network is as "
                "its configuration makes it: untrained"
            )
        self._restore()

    before_validate = before_predict = before_test

    def before_unlearn(self) -> None:
        """Unlearning starts from trained weights."""
        config = self.config[self.subcommand]
        if config.init_from is None and config.ckpt_path is None:
            raise MisconfigurationException("unlearn starts from trained weights: give --init_from WEIGHTS")
        self._restore()

    def after_fit(self) -> None:
        """Leave the weights and the split in the run folder, ready for ``unlearn``."""
        if not self.trainer.global_step:
            rank_zero_warn("no training step was taken, so the weights are those that the run began with")
        if self.trainer.is_global_zero and not runs_fast(self.trainer):
            folder = Path(self.trainer.default_root_dir)
            save_weights(self.model, folder / "weights.safetensors")
            split = getattr(self.datamodule, "split", None)
            if isinstance(split, ForgetSplit):
                split.save(folder / "split.json")
            print(f"weights: {folder / 'weights.safetensors'}")

    def _restore(self) -> None:
        weights = self.config[self.subcommand].init_from
        if weights is not None:
            load_weights(self.model, weights)
            for callback in callbacks_of(self.trainer):
                if isinstance(callback, ExposureLedger) and callback.history == INITIALISATION:
                    raise MisconfigurationException(
                        "ExposureLedger(history='initialisation') would re-initialise what --init_from restored; give "
                        "the ledger.json of these weights as history"
                    )


def _write_into(logger: Any, root: str) -> None:
    """Point a configured logger at the run folder unless the user chose a place."""
    settings = logger.init_args
    if settings.get("save_dir") in (None, "."):
        settings["save_dir"] = str(Path(root).absolute())  # W&B writes from a process with a folder of its own
