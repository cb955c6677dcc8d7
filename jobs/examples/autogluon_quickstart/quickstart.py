"""AutoGluon's quick start: a table and a label in, a leaderboard, an evaluation and predictions out.

cd jobs/examples/autogluon_quickstart && python quickstart.py
"""

import distens

if __name__ == "__main__":
    result = distens.run(distens.load_config("run.yaml"), overwrite=True)
    board = result.leaderboard()
    print(board[["member", "family", "search.nll", "combine.accuracy", "weight", "seconds"]].head(8).to_string())
    print({name: round(value, 4) for name, value in result.rows["ensemble"].items()})
    rows = result.data().example_rows
    print(result.predictor.predict(rows)[:5], result.predictor.uncertainty(rows)["mutual_information"][:5].round(4))
