"""Cost model: parameters, FLOPs, bytes and memory as pure functions; never torch."""
