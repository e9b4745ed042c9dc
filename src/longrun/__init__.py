"""Longrun: from raw worked solutions to an evaluated Hugging Face model."""

__version__ = "0.1.0"
