"""Completions from a running server, for olc's own commands: the other side of `serve`.

Begin with `find.find_server`, which finds the server of this user that serves what would be loaded here, or
`find.named_server`, the one of `--server URL`; `completions.ask` sends it a request, `completions.Stream` too.
Importing this brings neither the server's side nor torch: a command that is answered in 0.2 seconds has no time for them.
"""
