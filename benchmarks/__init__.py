"""What a gateway costs, and what it saves, next to its peers: `make bench`."""
