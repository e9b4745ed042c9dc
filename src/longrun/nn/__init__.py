"""The model as if there were one device: decoder families, rope, attention, loss."""
