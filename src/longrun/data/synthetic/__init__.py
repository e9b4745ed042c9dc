"""Generated problems with worked solutions, and a tokenizer trained on them."""
