"""What an error message means: text in, the known errors that explain it out, the root cause first.

Begin with `search.explain`, which takes a message, a traceback or a log of any size in pieces and returns a
`diagnosis.Diagnosis`. The known errors are data, a TOML file a topic in `errors/`; `catalogue` reads them. `lines` tells a
message from what loggers and tracebacks put around it, and masks secrets; `own_code` finds the user's own line in a traceback;
`wrapped` reads messages that were broken into lines; `nearest` finds what an unknown message resembles. Nothing here imports
torch, and nothing is sent anywhere.
"""
