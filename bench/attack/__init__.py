"""Attacks on a finished run: one module for each kind, and the tiny run that they attack."""
