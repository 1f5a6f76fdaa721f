"""Peers: the same verbs written as each library's documentation writes them, with its documented fast paths on."""
