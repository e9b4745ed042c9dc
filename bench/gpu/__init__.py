"""The parts of ``train_gpu.py``; each runs on one GPU and, tiny, on the CPU."""
