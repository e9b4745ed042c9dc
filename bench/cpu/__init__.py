"""The contenders of ``train_cpu.py`` and what they are given."""
