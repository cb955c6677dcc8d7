"""The command line: commands, the live view, jobs on a cluster, tables."""
