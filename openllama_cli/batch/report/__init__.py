"""How right a finished batch is, where its rows carry the expected `answer`: `olc batch --report OUTPUT`.

Begin with `rows.read_outcomes`, which reads OUTPUT in any of its formats; `measures.Report` counts what comes: accuracy,
precision and recall, confusion, calibration. `reliability` draws the last as an SVG.
"""
