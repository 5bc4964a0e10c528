"""What a person sees: the result on stdout, everything else on stderr. The only package that imports rich.

Plain values come in (texts, numbers, rows of a table); nothing here knows a model or computes a result. Begin reading in
`streams`, through which all output goes; `escape` makes untrusted text safe to show, `tables` and `progress` draw, and `views`
has one module per command.
"""
