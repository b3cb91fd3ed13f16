"""Anchorage on Kubernetes: rendered, checked, applied, followed and taken away again."""
