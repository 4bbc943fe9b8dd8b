"""A play in three acts: real clients, three providers on loopback, and trouble on purpose."""
