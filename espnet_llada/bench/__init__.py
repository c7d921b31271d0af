"""Where the time goes: systems measured in turn, stage by stage, on the same speech."""
