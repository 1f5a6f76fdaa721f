"""Followers: what follows the change stream, each at its own pace, with its own checkpoint."""
