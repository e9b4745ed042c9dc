"""The option names of NeMo-Skills and of the trainers under it, and what each means here."""
