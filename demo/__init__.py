"""The gateway's main job, shown on real clients."""
