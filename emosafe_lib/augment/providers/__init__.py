"""Who writes the re-interpretations: a chat server, its batch endpoint, or templates without a language model."""
