"""What stages hand to each other: manifests, documents, pack plans, prompts, predictions; files only, never torch."""
