"""Tokenized documents: from records to shards, one part or many."""
