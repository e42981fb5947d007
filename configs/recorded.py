"""The configuration that a work directory was made with, to run it again.

Command:   automem pipeline --config=configs/recorded.py:OLD/config.json --workdir=NEW
Hardware:  that of the recorded run
Duration:  that of the recorded run; `automem report` on OLD tells it
"""

import dataclasses
import json
from pathlib import Path

from ml_collections import ConfigDict

from automem_jax.config import from_config_dict


def get_config(path: str):
    """The config of a config.json.

    Raises:
      ConfigError: it was written by another version.
    """
    recorded = from_config_dict(json.loads(Path(path).read_text(encoding="utf-8")))
    return ConfigDict(dataclasses.asdict(recorded))
