"""The task model: extractors to tokens, fusion over present and reconstructed tokens, classifier."""
