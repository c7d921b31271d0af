"""Makes modules from a configuration: what knows core and extensions by name."""
