"""What stages hand to each other: manifests, documents, plans, predictions; never torch."""
