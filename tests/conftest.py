"""Settings every test runs under: CPU only, one persistent compilation cache."""

import os
import signal

# Started in the background of a shell, interrupts are ignored, and children would ignore them too.
signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.expanduser("~/.cache/automem_jax/xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # many small programs

# For programs of several fake devices, where compiling is nearly all of the time; numerics are the same.
os.environ["AUTOMEM_QUICK_COMPILE"] = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

_LONGEST = (  # first, so that no worker ends with one of them alone
    "test_pipeline.py",
    "test_distributed.py",
    "test_mesh.py",
    "test_launch_training.py",
    "test_sharding.py",
)


def pytest_collection_modifyitems(items):
    """Puts the files that take longest first."""
    order = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
