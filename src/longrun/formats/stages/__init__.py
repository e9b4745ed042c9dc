"""The contract of a stage: its folder, manifest, progress and ledger."""
