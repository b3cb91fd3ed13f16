"""Kubernetes manifests, installed with the program: `anchorage deploy` renders them."""
