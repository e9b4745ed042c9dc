"""Text and tokens: conversations, spans and the exact tokenizer."""
