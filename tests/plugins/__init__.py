"""Plug-ins for tests, found as users' own are: by their address."""
