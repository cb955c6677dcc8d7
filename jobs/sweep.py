"""A Ray job that carries out a sweep, or the rest of a sweep that was stopped.

ray job submit --working-dir . -- python jobs/sweep.py configs/sweep_wine.yaml --set storage=s3://bucket/runs
"""

import sys

from distens.cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["sweep"]
    main()
