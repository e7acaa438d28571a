"""`fit`: Lightning's Trainer, with our own progress, files and checkpoints in place of its own."""

import logging
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch

from ldm.background import BackgroundWriter
from ldm.checkpoint.discovery import RESUME_STATE
from ldm.config import to_yaml
from ldm.interruption import before_the_end, finish_first
from ldm.nn.graphed import Capture
from ldm.training.callbacks import (
    FiniteGuard,
    GradientGuard,
    ReleaseMemory,
    SaveEvery,
    StopOnSignal,
    TrainingProgress,
    UpdateClock,
)
from ldm.training.logs import LightningLog, build_logger
from ldm.training.module import TrainingModule
from ldm.training.processes import OneMachine, OneMachineDDP, OtherProcesses, explain_workers, own_environment
from ldm.training.resume_state import ResumeStateIO
from ldm.training.telemetry import Telemetry

Module = TypeVar("Module", bound=TrainingModule)

PRECISIONS = {None: "32-true", torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}


@dataclass(frozen=True)
class FitOptions:
    """The directory that a run writes into, its devices, precision, logger, capture and writer."""

    run_dir: Path
    devices: list[torch.device]
    autocast_dtype: torch.dtype | None
    logger: str
    """Names of `ldm.choices.LOGGERS`, separated by commas."""
    capture: Capture | None = None
    """Captures steps as CUDA graphs where that is possible; None: steps run eagerly."""
    writer: BackgroundWriter = field(default_factory=BackgroundWriter)
    """Writes what `save` puts into it, and the resume state, while training goes on."""


def fit(module: Module, options: FitOptions, save: Callable[[Module, int], None]) -> None:
    """Trains to the last update, from the run's resume state if there is one; `save(module, step)` saves a checkpoint.

    `save` may leave writing to `options.writer`, with a copy of the weights; all is written when this function returns.
    After a signal the step ends, the resume state is saved and `Stopped` is raised.
    """
    with finish_first() as request, own_environment(options.run_dir), _quiet_lightning():
        others = OtherProcesses()
        finite = FiniteGuard(_log_every(module), module.config.save_every)
        stop = StopOnSignal(options.run_dir, request, others, finite, _log_every(module))
        logger = build_logger(options.logger, options.run_dir)
        trainer = _build_trainer(module, options, save, logger, stop, others)
        state = options.run_dir / RESUME_STATE
        resumed = state.exists()
        with logger.threads(), options.writer, before_the_end(others.kill):
            if not resumed:
                logger.log_text("config", textwrap.indent(to_yaml(asdict(module.config)), "    "), 0)
            try:
                trainer.fit(module, ckpt_path=str(state) if resumed else None)
                others.wait()
            except Exception as error:
                why = others.explain(explain_workers(error))
                if why is error:
                    raise
                raise why from None
            finally:
                others.end()


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning logs and warns of errors only: the rest is for its developers, or wrong here.

    It advises worker processes, though latents are in memory, and `srun`, which would start several runs.
    """
    packages = ("pytorch_lightning", "lightning_fabric")
    levels = {package: logging.getLogger(package).level for package in packages}
    with warnings.catch_warnings():
        try:
            for package in packages:
                warnings.filterwarnings("ignore", module=package)
                logging.getLogger(package).setLevel(logging.ERROR)
            yield
        finally:
            for package, level in levels.items():
                logging.getLogger(package).setLevel(level)


def _log_every(module: TrainingModule) -> int:
    return max(1, min(10, module.config.iterations // 50))


def seconds_of_updates(
    module: TrainingModule,
    device: torch.device,
    autocast_dtype: torch.dtype | None,
    most_updates: int,
    most_seconds: float,
) -> list[float]:
    """The times of a training's first updates, made as `fit` makes them, without a graph; nothing is written.

    No other is begun after `most_seconds`.
    """
    clock = UpdateClock(most_seconds)
    with own_environment(Path()), _quiet_lightning():
        trainer = _trainer(
            module,
            [device],
            autocast_dtype,
            max_steps=min(most_updates, module.config.iterations),
            logger=False,
            callbacks=[clock, ReleaseMemory()],
            plugins=[OneMachine()],
        )
        trainer.fit(module)
    return clock.seconds


def _build_trainer(
    module: Module,
    options: FitOptions,
    save: Callable[[Module, int], None],
    logger: LightningLog,
    stop: StopOnSignal,
    others: OtherProcesses,
) -> pl.Trainer:
    """A trainer that writes nothing but checkpoints, resume state and log, and reads no settings of its environment."""
    config, autocast_dtype = module.config, options.autocast_dtype
    # Not with loss scaling, which reads the gradients in every step, or several devices, which exchange them in the
    # backward pass.
    if options.capture and module.can_be_graphed and len(options.devices) == 1 and autocast_dtype != torch.float16:
        module.graph_steps(options.capture, autocast_dtype)
        autocast_dtype = None  # the graph contains its own
    return _trainer(
        module,
        options.devices,
        autocast_dtype,
        strategy=OneMachineDDP(others) if len(options.devices) > 1 else "auto",
        max_steps=config.iterations,
        logger=logger,
        log_every_n_steps=_log_every(module),
        # Guards come before saving, so that nothing broken is saved.
        callbacks=[
            GradientGuard(),
            stop.guard,
            TrainingProgress(every=_log_every(module)),
            Telemetry(every=_log_every(module)),
            SaveEvery(options.run_dir, config.save_every, save, options.writer),
            stop,
            ReleaseMemory(),
        ],
        plugins=[ResumeStateIO(options.writer), OneMachine()],
        default_root_dir=options.run_dir,
    )


def _trainer(
    module: TrainingModule, devices: list[torch.device], autocast_dtype: torch.dtype | None, **others: Any
) -> pl.Trainer:
    """Lightning's trainer on these devices, with what all trainings share; `others` are its own arguments."""
    first = devices[0]
    trainer = pl.Trainer(
        accelerator="gpu" if first.type == "cuda" else first.type,
        devices=[device.index or 0 for device in devices] if first.type == "cuda" else len(devices),
        precision=PRECISIONS[autocast_dtype],  # type: ignore[arg-type]
        gradient_clip_val=module.config.max_grad_norm or None,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **others,
    )
    # Only `ldm.interruption` handles signals.
    trainer._signal_connector.register_signal_handlers = _no_handlers  # type: ignore[method-assign]
    return trainer


def _no_handlers() -> None:
    """Replaces Lightning's signal handlers, of which one broadcasts to processes that may not answer."""
