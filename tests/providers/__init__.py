"""Real provider clients over real HTTP, against a server that breaks on cue."""
