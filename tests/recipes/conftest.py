import os
import sys
from pathlib import Path

import pytest

for name in ("selection", "training"):  # handmade, toy
    sys.path.append(str(Path(__file__).parents[1] / name))


@pytest.fixture(autouse=True, scope="session")
def quick_disk():
    """A killed process loses nothing that the kernel has; waiting for the disk is for a lost machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
