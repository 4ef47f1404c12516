"""Convolutional networks in JAX: every classic CNN, one trainer, honest results."""

__version__ = "0.1.0"
