"""Files: audio, Kaldi tables, checkpoints, weights and their cache; knows no model."""
