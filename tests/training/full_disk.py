"""Goes on with the toy run EXAMPLES OUT where no file can grow beyond 2000 bytes."""

import resource
import signal
import sys
from pathlib import Path

from toy import WordTokenizer, tiny_decoder, toy_config

from automem_jax.training.loop import train


def fill_the_disk(step, total, figures):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))


examples, out = Path(sys.argv[1]), Path(sys.argv[2])
train(toy_config(), tiny_decoder(), WordTokenizer(), examples, out, fill_the_disk)
