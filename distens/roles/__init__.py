"""Roles: what a run trains, and what it makes of that. Each role is a folder."""
