"""DivBO inside a plain `tune.Tuner`: four trials at once, then an ensemble of what they trained.

    python jobs/tune_divbo.py                                       # scikit-learn's breast_cancer, 24 trials
    python jobs/tune_divbo.py --config configs/digits.yaml --trials 40 --concurrent 4
    python jobs/tune_divbo.py --restore                             # after Ctrl-C, a crash or a kill: continues

It shows users of Ray Tune what to write in place of `distens run`: schedulers, stoppers, callbacks and `Tuner.restore`
are Tune's own. The ensemble at the end is a run like any other, with its table, page and MLflow run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def main(
    config: Annotated[Path, typer.Option(help="The config: members, data and `search`.")] = Path(
        "configs/breast_cancer.yaml"
    ),
    trials: Annotated[int, typer.Option(help="The number of members.")] = 24,
    concurrent: Annotated[int, typer.Option(help="The number of trials at a time.")] = 4,
    folder: Annotated[Path, typer.Option(help="The folder of Tune's experiment.")] = Path("runs/tune"),
    restore: Annotated[bool, typer.Option(help="Resume an interrupted experiment.")] = False,
) -> None:
    """Search with Tune, then make an ensemble."""
    from ray import tune

    import distens.tune
    from distens.config.config import load_config
    from distens.evaluate.report import table_lines

    run = load_config(config)
    trainable = distens.tune.trainable(run)
    place = str(folder.absolute() / run.name)
    if restore:
        tuner = tune.Tuner.restore(place, trainable=trainable)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=distens.tune.param_space(run),
            tune_config=tune.TuneConfig(
                search_alg=distens.tune.DivBOSearch.of(run),
                num_samples=trials,
                max_concurrent_trials=concurrent,
                reuse_actors=True,  # a trial then costs half a second instead of four
            ),
            run_config=tune.RunConfig(name=run.name, storage_path=str(folder.absolute()), verbose=1),
        )
    result = distens.tune.ensemble(tuner.fit(), run, watch=lambda update: print(update.text) if update.text else None)
    for line in table_lines(result.rows, {}):
        print("  ".join(f"{cell:>12}" for cell in line))
    print(*result.verdict, *result.notes, sep="\n")


if __name__ == "__main__":
    typer.run(main)
