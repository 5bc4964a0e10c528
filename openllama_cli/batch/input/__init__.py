"""Input files to rows: .txt, .jsonl (OpenAI batch lines too), .csv and .tsv, one row at a time.

Begin with `readers.read_rows`, which yields a `rows.Row` for everything that is one; a row that is wrong carries its
`RowError`. `precheck.precheck` reads an input once before a model is loaded, to refuse what cannot be meant.
"""
