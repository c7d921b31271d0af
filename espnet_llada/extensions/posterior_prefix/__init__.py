"""Audio embeddings as mixtures of the LM's own, by a CTC's posteriors."""
