"""Trains the judge of the toy world on its renders."""

from ldm.commands.train.checks import tokenizer_source
from ldm.commands.train.run import TrainingRun
from ldm.nn.tokenizer import load_tokenizer
from ldm.runtime.devices import explain_out_of_memory
from ldm.toyworld.judge.data import HEADS
from ldm.toyworld.judge.file import judge_writer
from ldm.toyworld.judge.network import JudgeConfig
from ldm.training.judge import JudgeTraining, build_judge_training
from ldm.training.trainer import FitOptions, fit


def train_judge(run: TrainingRun) -> None:
    """Trains it to the last update."""
    options = run.options
    config = run.configured(run.settings.judge_training)
    tokenizer = load_tokenizer(tokenizer_source(options, run.settings), JudgeConfig(HEADS).max_length)
    module = build_judge_training([options.image_dir], tokenizer, config, options.seed, options.workers)

    fit_options = FitOptions(run.directory, run.devices, run.compute.autocast_dtype, options.logger)

    def save(module: JudgeTraining, step: int) -> None:
        fit_options.writer.put(judge_writer(run.checkpoint_path(step), module.judge, module.tokenizer.digest))

    with explain_out_of_memory("a smaller --batch-size needs less"):
        fit(module, fit_options, save)
