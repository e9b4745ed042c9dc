"""The parts of the page: pure functions from manifests and files to what is shown."""
