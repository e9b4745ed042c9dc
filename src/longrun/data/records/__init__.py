"""Raw records: where they lie, what is kept of them, and the prompts they are put into."""
