"""Trains on a Ray cluster: what the cluster has, a train's client, and what runs on the cluster."""
