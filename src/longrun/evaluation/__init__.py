"""Sample solutions, run their code, extract and grade answers, summarise with error bars."""
