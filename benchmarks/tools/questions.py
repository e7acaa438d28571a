"""The campaign's questions, in the order of what their answers are worth."""

from dataclasses import dataclass
from pathlib import Path

PERFORMANCE, MEMORY = "docs/performance.md", "docs/memory.md"


@dataclass(frozen=True)
class Question:
    """A question that one call of a script answers."""

    name: str
    title: str
    """The answer's heading on its page."""
    seconds: int
    """Its share of the budget, on a data centre's GPU with its start-up; it is stopped after twice that."""
    command: tuple[str, ...]
    """After `python`."""
    smoke: tuple[str, ...] = ()
    """Instead of the command's last flags on a CPU: the same at its smallest."""
    page: str = ""
    """Where its table goes; empty: nowhere."""

    def words(self, *, smoke: bool) -> list[str]:
        """The words after `python`."""
        return [*self.command, *(self.smoke if smoke else ())]

    def figures(self, directory: Path) -> list[str]:
        """The flag that has a script write its figures there."""
        return ["--json", str(directory / f"{self.name}.json")] if self.command[0].endswith(".py") else []


QUICK = ("--size", "tiny", "--device", "cpu", "--runs", "1", "--warmup", "0")
"""Later flags replace earlier ones."""
QUESTIONS = (
    Question(
        "gpu-tests", "Tests that need a GPU", 120, ("-m", "pytest", "-m", "gpu", "-n", "0", "-q"), ("--collect-only",)
    ),
    Question(
        "training-step",
        "A training step, text encoder frozen",
        90,
        ("benchmarks/training_step.py", "--runs", "3", "--no-peaks"),
        (*QUICK, "--steps", "1", "--first-steps", "1"),
        PERFORMANCE,
    ),
    Question(
        "image",
        "One image",
        100,
        ("benchmarks/sampling.py", "--batch-sizes", "1", "--runs", "3", "--no-peaks"),
        (*QUICK, "--steps", "5"),
        PERFORMANCE,
    ),
    Question("memory", "Memory of a training at equal settings", 150, ("benchmarks/memory.py",), QUICK[:4], MEMORY),
    Question(
        "class-images",
        "Class images by batch size",
        120,
        ("benchmarks/sampling.py", "--batch-sizes", "4", "16", "--runs", "2", "--no-peaks"),
        (*QUICK, "--steps", "5", "--batch-sizes", "2"),
        PERFORMANCE,
    ),
    Question(
        "unet",
        "UNet forward",
        60,
        ("benchmarks/unet_forward.py", "--batch-sizes", "1", "8", "--runs", "5", "--no-peaks"),
        (*QUICK, "--batch-sizes", "1"),
        PERFORMANCE,
    ),
    Question(
        "training-step-text",
        "A training step, text encoder trained",
        90,
        ("benchmarks/training_step.py", "--train-text-encoder", "--runs", "3", "--no-peaks"),
        (*QUICK, "--steps", "1", "--first-steps", "1"),
        PERFORMANCE,
    ),
    Question(
        "profiles",
        "Memory profiles: predicted and measured peaks, losses of 200 steps of the tiny model",
        120,
        ("benchmarks/profiles.py",),
        ("--device", "cpu", "--steps", "2", "--class-images", "1", "--only", "0"),
        MEMORY,
    ),
    Question(
        "optimizers",
        "8-bit AdamW: ours, torchao's and that of bitsandbytes",
        100,
        ("benchmarks/optimizers.py", "--weights", "100000000"),
        ("--device", "cpu", "--weights", "1", "--runs", "1", "--steps", "2", "--seeds", "1", "--only", "ours"),
        MEMORY,
    ),
    Question(
        "recipe",
        "An eighth of the recipe: 25 class images, 100 updates, one checkpoint",
        240,
        ("benchmarks/recipe.py", "--runs", "1", "--class-images", "25", "--iterations", "100", "--save-every", "100"),
        (*QUICK, "--class-images", "2", "--iterations", "2", "--save-every", "2", "--steps", "2"),
        PERFORMANCE,
    ),
    Question(
        "checkpoint",
        "A checkpoint",
        120,
        ("benchmarks/checkpoint.py", "--runs", "2"),
        QUICK,
        PERFORMANCE,
    ),
    Question(
        "fast-path",
        "How the fast paths change the image",
        120,
        ("benchmarks/fast_path.py",),
        ("--device", "cpu", "--without-compile", "--prompts", "a photo of a blue mug", "--steps", "2"),
        PERFORMANCE,
    ),
)
