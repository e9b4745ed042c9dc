"""Tests against a real Slurm."""
