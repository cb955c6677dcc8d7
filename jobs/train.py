"""A Ray job that carries out one run, or the rest of a run that was stopped.

    ray job submit --working-dir . -- python jobs/train.py configs/digits.yaml --set storage=s3://bucket/runs

`distens submit configs/digits.yaml --set …` does the same, checks the config before it submits the job, and returns the
run's own exit code (2: the config is wrong; 130: stopped), where `ray job submit` returns only 0 and 1.
"""

import sys

from distens.cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["run", "--resume"]
    main()
