"""Trains the toy run and kills itself, without any warning, after the step given."""

import os
import signal
import sys
from pathlib import Path

from toy import WordTokenizer, tiny_decoder, toy_config

from automem_jax.training.loop import train

folder, step_to_die = Path(sys.argv[1]), int(sys.argv[2])


def die(step, total, figures):
    if step == step_to_die:
        os.kill(os.getpid(), signal.SIGKILL)


train(toy_config(), tiny_decoder(), WordTokenizer(), folder / "e.jsonl", folder / "run", die)
