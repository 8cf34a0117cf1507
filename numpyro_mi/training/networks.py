"""Small dense networks: parameters as a list of `(weights, bias)`, so that they save as plain arrays."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from numpyro_mi.options import shown

Layers = list[tuple[jax.Array, jax.Array]]


def dense_layers(rng_key: jax.Array, sizes: Sequence[int]) -> Layers:
    """Random layers from `sizes[0]` inputs to `sizes[-1]` outputs; the last one is zero, so the output is too."""
    layers = []
    for i, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        last = i == len(sizes) - 2
        scale = 0.0 if last else (2.0 / max(inputs, 1)) ** 0.5
        weights = scale * jax.random.normal(jax.random.fold_in(rng_key, i), (inputs, outputs), float)
        layers.append((weights, jnp.zeros(outputs)))
    return layers


def apply_layers(layers: Layers, hidden: jax.Array) -> jax.Array:
    """The network after its first linear map: `hidden` are the values before the first activation."""
    for weights, bias in layers:
        hidden = jax.nn.silu(hidden) @ weights + bias
    return hidden


def apply_network(layers: Layers, inputs: jax.Array) -> jax.Array:
    """The whole network."""
    weights, bias = layers[0]
    return apply_layers(layers[1:], inputs @ weights + bias)


def check_hidden(owner: str, hidden: Any) -> tuple[int, ...]:
    """Sizes of hidden layers as a tuple."""
    sizes = tuple(hidden) if isinstance(hidden, list | tuple) else ()
    if not sizes or not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise ValueError(
            f"{owner} needs hidden, a sequence of positive layer sizes such as (128, 128), got {shown(hidden)}."
        )
    return sizes
