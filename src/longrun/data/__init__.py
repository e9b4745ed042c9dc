"""Records to documents to packs: sources, filters, spans, tokens and packing; never torch."""
