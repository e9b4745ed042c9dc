"""Weights at rest: sharded save and resume, averaging, Hugging Face folders in and out."""
