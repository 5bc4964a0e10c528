"""The rows of a batch over a completions server: `olc batch --server`.

Begin with `server.connect`, which asks the server for its models, and `engine.RemoteRunner`, which sends it rows, many at a
time, until each has its result. `attempts` says what an answer means: a result, an error of the row, a retry, or the end of
the run.
"""
