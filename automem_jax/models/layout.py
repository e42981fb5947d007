"""Which variable of the decoder holds which tensor of a Hugging Face checkpoint.

Kernels are [in, out] in memory and [out, in] on disk; layers are stacked in memory.

Axes: L layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

BLOCKS = (
    ("self_attn", ("q_proj", "k_proj", "v_proj", "o_proj")),
    ("mlp", ("gate_proj", "up_proj", "down_proj")),
)
BLOCK_OF = {name: block for block, names in BLOCKS for name in names}


@dataclass(frozen=True)
class Row:
    """One variable: its tensor's name with "{layer}" where it is stacked, and whether the last two axes
    are swapped on disk. `path` names it within the decoder."""

    template: str
    path: str
    variable: Any
    transposed: bool

    @property
    def stacked(self) -> bool:
        return "{layer}" in self.template

    def names(self, layers: int) -> Iterator[tuple[int | None, str]]:
        """(layer, tensor name); layer is None where it is not stacked."""
        if not self.stacked:
            yield None, self.template
        else:
            yield from ((layer, self.template.format(layer=layer)) for layer in range(layers))


def layout(model: Any) -> list[Row]:
    """The rows of a decoder (or of an abstract one), without those its family lacks."""
    layers = model.layers
    rows = [Row("model.embed_tokens.weight", "embed", model.embed, False)]
    for name, block in BLOCK_OF.items():
        linear, place = getattr(layers, name), f"model.layers.{{layer}}.{block}.{name}"
        rows.append(Row(f"{place}.weight", f"layers.{name}.kernel", linear.kernel, True))
        rows.append(Row(f"{place}.bias", f"layers.{name}.bias", linear.bias, False))
    for place, name in (
        ("self_attn.q_norm", "q_norm"),
        ("self_attn.k_norm", "k_norm"),
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "mlp_norm"),
    ):
        norm = getattr(layers, name)
        if norm is not None:
            template = f"model.layers.{{layer}}.{place}.weight"
            rows.append(Row(template, f"layers.{name}.scale", norm.scale, False))
    rows.append(Row("model.norm.weight", "final_norm.scale", model.final_norm.scale, False))
    rows.append(Row("lm_head.weight", "head", model.head, True))
    return [row for row in rows if row.variable is not None]
