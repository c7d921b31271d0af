"""From a config and a checkpoint to a model, and whom that trusts."""
