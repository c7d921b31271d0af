"""Beyond the paper: what the small models, and speed, make use of."""
