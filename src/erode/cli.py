"""The command line: LightningCLI with an `unlearn` verb, run folders that are never overwritten, plain verbs."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import shtab
from jsonargparse import Namespace, auto_cli
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from . import callbacks, datamodules, lightning_modules  # noqa: F401  # short class names need the import
from ._version import __version__
from .anchor import make_anchor
from .audit import audit
from .benchmark import benchmark
from .callbacks import ExposureLedger, PredictionWriter
from .callbacks.bases.operator import operators_of
from .callbacks.exposure_ledger import INITIALISATION
from .comparison import compare
from .correlations import correlations
from .files import fresh_folder
from .fresh_parser import FreshParser
from .lightning_modules import SegmentationModule
from .masks import ForgetSplit
from .measures import measure
from .operators.command import operators
from .plan.command import plan_command
from .protocols.classification import classify
from .protocols.ladder import ladder
from .protocols.traps import traps
from .report import report
from .requests import rewind
from .verify import verify
from .weights import load_weights, save_weights


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
            raise MisconfigurationException(
                f"unlearn needs exactly one unlearning operator, found {len(operators)}; "
                "add one, e.g. --trainer.callbacks+=Retrain"
            )
        self.fit(model, datamodule=datamodule, ckpt_path=ckpt_path)
        if not operators[0].finished:
            raise MisconfigurationException(
                "no training step was taken; raise max_steps, max_epochs or the data's limits"
            )


class SaveConfig(SaveConfigCallback):
    """Writes ``config.yaml`` into the run folder and hands the whole configuration to Weights & Biases."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called on rank 0 once the logger exists."""
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams(self.config.as_dict())


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
            parser_kwargs={
                "prog": "erode",
                "version": __version__,
                "description": "Remove coarse-mask shortcuts from segmentation models by unlearning.",
                "epilog": "further verbs: " + ", ".join(f"erode {verb} --help" for verb in (*PLAIN_VERBS, "plan")),
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
            trainer.default_root_dir = str(run_folder(self.subcommand))
        root = trainer.default_root_dir
        _refuse_used(Path(root))
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
        own: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning declares it nowhere
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
        if self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
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
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]  # Lightning declares it nowhere
                if isinstance(callback, ExposureLedger) and callback.history == INITIALISATION:
                    raise MisconfigurationException(
                        "ExposureLedger(history='initialisation') would re-initialise what --init_from restored; give "
                        "the ledger.json of these weights as history"
                    )


def run_folder(verb: str | None) -> Path:
    """A new folder ``runs/VERB-N``; processes that a distributed strategy launched share their parent's."""
    inherited = os.environ.get("ERODE_RUN_FOLDER")
    if inherited is not None and "LOCAL_RANK" in os.environ:
        return Path(inherited)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise MisconfigurationException(
            "processes launched from outside (torchrun, SLURM) cannot agree on a new run folder; "
            "give --trainer.default_root_dir"
        )
    folder = fresh_folder("runs", verb or "run")
    os.environ["ERODE_RUN_FOLDER"] = str(folder)
    return folder


def completion(shell: Literal["bash", "zsh", "tcsh"]) -> None:
    """Print a script that completes verbs and options, e.g. ``eval "$(erode completion bash)"``.

    Options of classes are not among them: jsonargparse's own script walks every subclass of every class, and does
    not come to an end on a Trainer.

    Args:
        shell: the shell that will read the script.
    """

    class Completion(ErodeCLI):
        def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
            print(shtab.complete(parser, shell))
            raise SystemExit(0)

    Completion([])


def anchor(
    pretrained: Path,
    out: Path,
    model: Callable[[], SegmentationModule] | None = None,
    head: list[str] | None = None,
    seed: int = 0,
) -> Path:
    """Make an anchor of pretrained weights: all but the head, in a fresh segmentation module.

    Args:
        pretrained: weights of a network of the same kind, e.g. of a RestorationModule, with their ledger.
        out: file to write, such as anchors/mine/anchor.safetensors.
        model: the segmentation module, as in --config configs/model/unet.yaml; None = the default.
        head: shell patterns of the tensors that stay fresh; None = those of another shape.
        seed: of the fresh head.
    """
    return make_anchor(pretrained, out, model or SegmentationModule, head, seed)


PLAIN_VERBS: dict[str, Callable[..., object]] = {
    "anchor": anchor,
    "benchmark": benchmark,
    "classify": classify,
    "compare": compare,
    "ladder": ladder,
    "measure": measure,
    "operators": operators,
    "report": report,
    "rewind": rewind,
    "traps": traps,
    "verify": verify,
    "audit": audit,
    "completion": completion,
    "correlations": correlations,
}
"""Verbs that need no Trainer of their own."""

COMPOSED_VERBS = {"audit", "correlations", "measure"}
"""Those whose required arguments have names, so that configurations can give them; other verbs take files in order."""

SECOND_FILE = {"verify": "--weights"}
"""Optional arguments that people give as a second file; jsonargparse takes required ones by position only."""


def main(args: Sequence[str] | None = None) -> None:
    """Run one command; errors are raised."""
    os.environ.setdefault("WANDB_MODE", "offline")  # nothing leaves the machine unless asked to
    arguments = list(sys.argv[1:] if args is None else args)
    if arguments and arguments[0] == "plan":
        print(plan_command(arguments[1:]))
    elif arguments and arguments[0] in PLAIN_VERBS:
        verb, rest = arguments[0], arguments[1:]
        by_name = verb in COMPOSED_VERBS
        if verb in SECOND_FILE and len(rest) == 2 and not any(word.startswith("-") for word in rest):
            rest = [rest[0], SECOND_FILE[verb], rest[1]]
        written = auto_cli(
            PLAIN_VERBS[verb], args=rest, prog=f"erode {verb}", as_positional=not by_name, parser_class=FreshParser
        )
        if written is not None:
            print(written)
    else:
        ErodeCLI(None if args is None else arguments)


def console() -> None:
    """`main` for people: what went wrong and what to do in one line, without the way through our code.

    Exits with 143 when terminated, as a shell reports it.
    """
    try:
        main()
    except SIGTERMException:  # Lightning's, without a code: a script that goes on must not take it for success
        print("erode: terminated; what was finished is kept, and the same command goes on", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)
    except (MisconfigurationException, ValueError, OSError) as error:
        if os.environ.get("ERODE_TRACEBACK"):
            raise
        sys.exit(f"erode: {error}\n(ERODE_TRACEBACK=1 shows where)")


def _refuse_used(folder: Path) -> None:
    """Refuse a folder with a run in it before any logger opens, and so clears, its files."""
    for name in ("config.yaml", "metrics.csv"):
        if (folder / name).exists():
            raise MisconfigurationException(
                f"{folder} already holds a run ({name}), and nothing is overwritten; "
                "give --trainer.default_root_dir another folder, or leave it out to get a new one"
            )


def _write_into(logger: Any, root: str) -> None:
    """Point a configured logger at the run folder unless the user chose a place."""
    settings = logger.init_args
    if settings.get("save_dir") in (None, "."):
        settings["save_dir"] = str(Path(root).absolute())  # W&B writes from a process with a folder of its own
