"""Lightning's Trainer as this project uses it: no progress, files or checkpoints but our own."""

import contextlib
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytorch_lightning as pl
import torch

from ldm.background import BackgroundWriter
from ldm.checkpoint.discovery import RESUME_STATE
from ldm.nn.static_call import Record
from ldm.training.callbacks import FiniteGuard, GradientGuard, LetGo, Progress, SaveEvery, StopOnSignal
from ldm.training.logs import EventLog, build_logger
from ldm.training.module import TrainingModule
from ldm.training.processes import OtherProcesses
from ldm.training.resume_state import ResumeStateIO

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)  # its own words are for its developers

Module = TypeVar("Module", bound=TrainingModule)

PRECISIONS = {None: "32-true", torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}


@dataclass(frozen=True)
class FitOptions:
    """Where a run writes, on which devices it computes, and in which mixed type, if any."""

    run_dir: Path
    devices: list[torch.device]
    autocast_dtype: torch.dtype | None
    logger: str
    record: Record | None = None
    """Records steps where that is possible; None: none."""
    writer: BackgroundWriter = field(default_factory=BackgroundWriter)
    """What is saved is written by it while training goes on."""


def fit(module: Module, options: FitOptions, save: Callable[[Module, int], None]) -> int | None:
    """Trains to the last update, from the run's resume state if there is one; `save(module, step)` writes a checkpoint.

    `save` copies what `options.writer` is to write; that is on the disk when this function returns. Returns the update
    at which the user stopped it, None if it ran to the end.
    """
    config = module.config
    log_every = max(1, min(10, config.iterations // 50))
    finite = FiniteGuard(log_every, config.save_every)
    stop = StopOnSignal(options.run_dir, finite, log_every)
    others = OtherProcesses()
    first = options.devices[0]
    autocast_dtype = options.autocast_dtype
    # Loss scaling looks at the gradients in every step, and several devices exchange them in the backward pass.
    if options.record and module.recordable and len(options.devices) == 1 and autocast_dtype != torch.float16:
        module.record_steps(options.record, autocast_dtype)
        autocast_dtype = None  # what is recorded does its own
    logger = build_logger(options.logger, options.run_dir)
    quiet = logger.no_traceback_of_its_thread() if isinstance(logger, EventLog) else contextlib.nullcontext()
    trainer = pl.Trainer(
        accelerator="gpu" if first.type == "cuda" else first.type,
        devices=[device.index or 0 for device in options.devices] if first.type == "cuda" else len(options.devices),
        strategy="ddp" if len(options.devices) > 1 else "auto",
        precision=PRECISIONS[autocast_dtype],  # type: ignore[arg-type]
        max_steps=config.iterations,
        gradient_clip_val=config.max_grad_norm or None,
        logger=logger,
        log_every_n_steps=log_every,
        # The guards come before the saving, so that nothing broken is saved.
        callbacks=[
            GradientGuard(),
            finite,
            Progress(every=log_every),
            SaveEvery(options.run_dir, config.save_every, save, options.writer),
            stop,
            LetGo(),
            others,
        ],
        plugins=[ResumeStateIO(options.writer)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    state = options.run_dir / RESUME_STATE
    with warnings.catch_warnings(), stop.restoring_handlers(), quiet, options.writer:
        # Lightning's advice to use worker processes and the like: latents are in memory, and a run has no end of data.
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        try:
            trainer.fit(module, ckpt_path=str(state) if state.exists() else None)
        finally:
            others.end()
    return stop.stopped_at
