"""Checkpoints of a training run (Orbax): what a step changes, and where the input stood.

The frozen base is not saved again; its hash is, and restoring onto another base is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from automem_jax.training.step import TrainState


class CheckpointError(ValueError):
    """A checkpoint belongs to another run; the message says what differs and the remedy."""


class Checkpoints:
    """The checkpoints of one run, newest last, `keep` of them. Saving goes on in the background.

    `identity` names what a run is made of (base hash, configuration, examples): a checkpoint is only
    restored where all of it is the same. A half-written checkpoint is never seen.
    """

    def __init__(self, directory: str | Path, *, keep: int, identity: dict[str, str]):
        self._directory = Path(directory).absolute()
        self._identity = identity
        self._manager = ocp.CheckpointManager(
            self._directory, options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        )

    def save(self, state: TrainState, iterator_state: dict[str, Any]) -> None:
        """Saves the state under its step number."""
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_tree(state)),
                run=ocp.args.JsonSave({"identity": self._identity, "iterator": iterator_state}),
            ),
        )

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest state and the input's, or None where nothing was saved yet.

        Args:
          like: a state of the same shapes; its arrays are not read.

        Raises:
          CheckpointError: the checkpoint was made with another base, configuration or data.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        run = self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run
        require_same(run["identity"], self._identity, f"checkpoint {self._directory / str(step)}")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _tree(like))
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        ).state
        leaves = jax.tree.leaves(restored["opt_state"])
        opt_state = jax.tree.unflatten(jax.tree.structure(like.opt_state), leaves)
        return TrainState(restored["step"], restored["params"], opt_state, restored["rng"]), run[
            "iterator"
        ]

    def wait(self) -> None:
        """Returns when everything saved so far is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes pending saves and frees the manager."""
        self._manager.close()


def require_same(saved: dict[str, str], now: dict[str, str], what: str) -> None:
    """Raises CheckpointError where the identity of saved work is not that of this run."""
    for name, value in now.items():
        if saved.get(name) != value:
            raise CheckpointError(
                f"{what} was made with {name} {saved.get(name)}, this run has {value}; "
                "use the same, or another output directory"
            )


def _tree(state: TrainState) -> dict[str, Any]:
    """Plain containers: the optimizer's leaves by position, so that no class name is stored."""
    leaves = {f"{i:04d}": leaf for i, leaf in enumerate(jax.tree.leaves(state.opt_state))}
    return {"step": state.step, "params": state.params, "opt_state": leaves, "rng": state.rng}
