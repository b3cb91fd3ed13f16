"""The routes, one file per kind of resource; each makes its router from plain values."""
