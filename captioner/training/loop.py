"""The Accelerate loop, readable from top to bottom: data, model, steps, validation, checkpoints.

Whatever a step draws follows from the seed and its number, and a run's state is saved exactly, so that a run which was
killed goes on as if nothing had happened.
"""

import random
from itertools import islice

from accelerate.utils import set_seed

from ..adopt import assemble, check_words
from ..base import Settings, progress
from ..data import TRAINING, steps
from ..model import Captioner, CaptionerProcessor
from ..search import search_options
from .accelerator import start_accelerator
from .beginning import begin
from .checkpoints import read_checkpoint, step_of
from .divergence import Divergence
from .gradients import Gradients
from .log import RunLog
from .objectives import OBJECTIVES
from .optimisation import prepare_model
from .place import Place
from .run import Run
from .splits import Splits
from .state import RunState
from .validation import Keeper, borrowed_metrics


def train(settings: Settings, resume: bool = False) -> dict[str, float]:
    """Train a captioner and leave it in `training.output_dir`.

    1. data, then model and processor;
    2. optimiser and schedule; Accelerate takes them over;
    3. with `resume`, the newest checkpoint, if there is one;
    4. steps, with a line of `metrics.jsonl` for each log and each validation;
    5. `best/` after every validation that beats all before; `last/` and a checkpoint every `save_steps` and at the end.

    Args:
        settings: of the run.
        resume: go on from the newest checkpoint in `output_dir`, bit for bit as if the run had not stopped.

    Returns:
        The scores of the best validation, with its `step`.

    Raises:
        SettingsError, DataError, PartsError, AdoptError, VocabularyError: what the settings ask for cannot be done.
        CheckpointError, OccupiedError, DisagreementError: as from `begin`; a checkpoint cannot be read.
        WriteError, DivergedError: the disk is full; the numbers of a step are no longer finite.
    """
    options = settings.training
    accelerator = start_accelerator(options, resume)
    newest = begin(settings, resume)
    done = 0 if newest is None else step_of(newest)
    borrowed = borrowed_metrics(settings, accelerator.device)
    set_seed(options.seed)
    splits = Splits.read(settings)
    model, processor = _assembled(settings, splits)
    splits = splits.with_retrieved(model, accelerator)
    prepare_model(model, options)
    passes = splits.passes(model, processor, accelerator)
    state = RunState.prepare(model, options, accelerator)
    log = RunLog(settings, accelerator, done)
    keeper = Keeper(settings, state, processor, log, splits.bad, borrowed)
    make_objective = OBJECTIVES[options.objective]
    gradients = Gradients(accelerator, state.wrapped, make_objective(settings, model, processor, splits.training))
    place = Place.after(done, len(passes), settings, accelerator.num_processes)
    divergence = Divergence(settings, accelerator.scaler is not None, accelerator.distributed_type)
    run = Run(settings, state, gradients, keeper, log, splits.bad, place)
    if newest is not None:
        run.restore(*read_checkpoint(newest))
    left = 0 if keeper.stops else max(options.max_steps - done, 0)
    batches = islice(steps(passes, place.accumulation, place.begun, splits.bad.of(TRAINING)), left)
    for step, micro_batches in enumerate(progress(batches, "training", left), start=done + 1):
        set_seed(_step_seed(options.seed, step, accelerator.process_index))
        state.train()
        loss = gradients(micro_batches)
        taken = state.step(loss)
        divergence.note(step, loss, taken)
        log.step(step, loss if taken else None, state.rates)
        if _pause(run, step, splits):
            break
    splits.bad.report()
    accelerator.end_training()
    return keeper.best


def _assembled(settings: Settings, splits: Splits) -> tuple[Captioner, CaptionerProcessor]:
    """The captioner to train; what cannot be searched for or written ends the run now, not at the first validation."""
    model, processor = assemble(settings.model, settings.data, splits.texts)
    search_options(settings.generation, model, processor)
    check_words(processor, splits.training.texts, "context" in model.config.modalities)
    return model, processor


def _pause(run: Run, step: int, splits: Splits) -> bool:
    """Share what is bad, validate and save where a step is due for it; → whether the run ends here."""
    options = run.settings.training
    last = step == options.max_steps
    if step % options.logging_steps == 0 or last:
        splits.bad.share()
    if step % options.eval_steps == 0 or last:
        run.keeper.validate(step, splits.validation)
        last = last or run.keeper.stops
    if step % options.save_steps == 0 or last:
        run.save(step)
    return last


def _step_seed(seed: int, step: int, process: int) -> int:
    """What the generators start a step with: a restart needs no generator's state."""
    return random.Random(f"{seed} {step} {process}").getrandbits(32)
