"""Solutions: sampled here or asked from a server, with code run in between."""
