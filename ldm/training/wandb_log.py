"""The log for Weights & Biases: scalars, images, text and the photos. No other module knows wandb."""

import hashlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from PIL import Image

from ldm.errors import UserError
from ldm.training.logs import RunLog

PROJECT = "ldm"
"""The default of WANDB_PROJECT."""
PHOTOS = "photos.png"
"""A fine-tuning's photos as they are cropped, in the run's directory."""
STEP = "update"
"""The x-axis of all curves. Wandb's own step can't go back, as that of a resumed run does."""


class WandbLog(RunLog):
    """Writes into the run's `log/wandb/`; wandb sends it, unless WANDB_MODE is offline.

    A resumed run has the same id. Wandb's settings, such as WANDB_PROJECT or WANDB_ENTITY, are read from the
    environment.
    """

    @classmethod
    def raise_if_unusable(cls) -> None:
        """Raises `UserError` if wandb is not installed, or has no key to send with, which it asks for in a terminal."""
        if importlib.util.find_spec("wandb") is None:
            raise UserError("--logger wandb needs a package: pip install wandb")
        if os.environ.get("WANDB_MODE", "online") != "online":
            return
        import wandb

        try:
            wandb.login()
        except wandb.Error as error:
            raise UserError(
                "--logger wandb has no key to send with: call `wandb login`, or set WANDB_MODE=offline to write files "
                f"only, which `wandb sync` sends later ({error})"
            ) from error

    @cached_property
    def run(self) -> Any:
        """The run of wandb, which begins when something is logged; its first image are the photos, if there are any."""
        import wandb

        run_dir = self.directory.parent
        self.directory.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_dir.name,
            id=hashlib.sha256(str(run_dir.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16],
            resume="allow",
            dir=str(self.directory),
            settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP)
        if (run_dir / PHOTOS).is_file():
            run.log({"photos": wandb.Image(str(run_dir / PHOTOS)), STEP: 0})
        return run

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to each curve."""
        with _as_os_error():
            self.run.log({**{name: value for name, value in values.items() if name != "epoch"}, STEP: step})

    def log_image(self, name: str, image: Image.Image, step: int) -> None:
        """Adds the image."""
        with _as_os_error():
            import wandb

            self.run.log({name: wandb.Image(image), STEP: step})

    def log_text(self, name: str, text: str, step: int) -> None:
        """Adds the text to the run's config."""
        with _as_os_error():
            self.run.config.update({name: text}, allow_val_change=True)

    def close(self) -> None:
        """Ends the run of wandb, which writes and sends the rest."""
        if "run" in vars(self):
            with _as_os_error():
                self.run.finish()


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Makes wandb's errors those of a log that can't be written, which end no training."""
    import wandb

    try:
        yield
    except wandb.Error as error:
        raise OSError(str(error)) from error
